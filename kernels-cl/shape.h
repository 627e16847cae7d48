/* SPDX-License-Identifier: Apache-2.0 */
/* How work is cut into work-items: numbers that the host and the OpenCL programs share. */
#ifndef AKV_CL_SHAPE_H
#define AKV_CL_SHAPE_H

#define AKV_CL_WG    128 /* work-items in a group of the GPU shape */
#define AKV_CL_ROWS  16  /* rows that a work-item of the CPU shape takes; a multiple of 4 */
#define AKV_CL_MAP_ROWS 4 /* the same of programs with maps: llvmpipe ends a work-item's loops after 65,535 turns */
#define AKV_CL_PIECE 8192 /* bytes of a run that a work-group copies */
#define AKV_CL_COUNT_PIECES 64u /* pieces whose exponents a work-group counts */
#define AKV_CL_LOW_ROWS 8u /* rows that a work-group of project and multiply takes */
#define AKV_CL_LOW_COLUMNS 16u /* columns of multiply that a work-item of the CPU shape takes */
#define AKV_CL_LOW_UNITS 1024u /* elements or pairs that a work-group of read and rows takes */
#define AKV_CL_SEGMENTS 4u /* segments of 32 lanes in a work-group of the GPU shape */
#define AKV_CL_COMPACT_PARTS 8u /* into which compact cuts the columns of a tile */

#endif
