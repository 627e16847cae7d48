/* SPDX-License-Identifier: Apache-2.0 */
/* How work is cut into work-items: numbers that the host and the OpenCL programs share. */
#ifndef AKV_CL_SHAPE_H
#define AKV_CL_SHAPE_H

#define AKV_CL_WG    128 /* work-items in a group of the GPU shape */
#define AKV_CL_ROWS  16  /* rows that a work-item of the CPU shape takes; a multiple of 4 */
#define AKV_CL_PIECE 8192 /* bytes of a run that a work-group copies */
#define AKV_CL_COUNT_PIECES 64u /* pieces whose exponents a work-group counts */
#define AKV_CL_SEGMENTS 4u /* segments of 32 lanes in a work-group of the GPU shape */

#endif
