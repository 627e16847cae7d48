/* SPDX-License-Identifier: Apache-2.0 */
/* Parameter structs of the kernels, and the step descriptor: fixed-width little-endian integers and
 * floats in the same layout in C, OpenCL C and CUDA.  `arg N` below is the N-th span of the launch. */
#ifndef AKV_KERNEL_PARAMS_H
#define AKV_KERNEL_PARAMS_H
#include "format.h"

/* Where blocks live.  The pool is up to 8 slabs of whole chunks; a chunk holds blocks of one kind.
 * Block `index` of kind k: chunk = index / blocks_per_chunk[k], slab = chunk / chunks_per_slab,
 * byte = (chunk % chunks_per_slab) * chunk_bytes + (index % blocks_per_chunk[k]) * block_bytes[k].
 * chunk_bytes and block_bytes are multiples of 16. */
typedef struct akv_pool_map {
    akv_u64 chunk_bytes;
    akv_u32 chunks_per_slab;
    akv_u32 slabs;
    akv_u32 block_bytes[AKV_KINDS];
    akv_u32 blocks_per_chunk[AKV_KINDS];
} akv_pool_map;

/* An address in the pool (lists of moves): slab in bits 63:56, byte offset in bits 55:0. */
#define AKV_ADDR_SLAB(a)   ((akv_u32)((a) >> 56))
#define AKV_ADDR_OFFSET(a) ((a) & 0x00FFFFFFFFFFFFFFul)

/* Address of the block that a table entry (kind in bits 31:28, index in 27:0) names. */
AKV_FN akv_u64 akv_block_address(const akv_pool_map *map, akv_u32 entry)
{
    akv_u32 kind = entry >> 28, index = entry & 0x0FFFFFFFu;
    akv_u32 per = map->blocks_per_chunk[kind], chunk = index / per;
    akv_u32 slab = chunk / map->chunks_per_slab;
    return ((akv_u64)slab << 56) |
           ((akv_u64)(chunk % map->chunks_per_slab) * map->chunk_bytes +
            (akv_u64)(index % per) * map->block_bytes[kind]);
}

/* Rows of the caller: element (token, head, i) stands at (token*token_stride + head*head_stride + i)
 * elements behind the span's start. */
typedef struct akv_rows {
    akv_u64 token_stride;
    akv_u64 head_stride;
    akv_u32 dtype; /* AKV_F32, AKV_F16, AKV_BF16 */
    akv_u32 heads;
} akv_rows;

#define AKV_FLAG_ROTATE 1u /* encode: rotate before; decode: rotate back after */
#define AKV_FLAG_SEARCH 2u /* codebook formats: scale search */
#define AKV_FLAG_MAP    4u /* an akv_map says what happens instead of AKV_FLAG_ROTATE */
#define AKV_FLAG_PLANT_SHIFT 16 /* bits 16..19: a planted fault, honoured by test encoders only */

/* Bits that quantising kernels OR into the u32 at arg `flags` when they meet such input. */
#define AKV_SAW_NAN  1u /* a NaN became 0 */
#define AKV_SAW_HUGE 2u /* a value beyond 2^100 was clamped */

/* Transform of one side of a layer, in a span of constants ("maps"); map.h has the arithmetic.  Offsets
 * are in bytes from the span's start, multiples of 16. */
typedef struct akv_map {
    akv_u32 transform; /* AKV_TRANSFORM_* */
    akv_u32 mean;      /* keys: f16 [heads][dim], before rotary embedding; 0: none */
    akv_u32 matrix;    /* MATRIX: f16 [heads][dim][dim], (i, j): what component i adds to stored component j */
    akv_u32 inverse;   /* MATRIX: f32 [heads][dim][dim], (j, i): what stored component j gives back to i */
    akv_u32 pairs;     /* of the rotary embedding; 0: the mean is the same at all positions */
    akv_u32 rope;      /* AKV_ROPE_*: which components are a pair */
    akv_u32 turns;     /* u64[pairs]: frequencies, 2^-64 turns a position */
    akv_u32 table;     /* f32 [pairs][2][16]: cos and sin of each frequency times 0 .. 15 */
    akv_u32 steps;     /* f32 [16][2][pairs rounded up to 16]: the same of 0, 16, 32 .. 240, 0 behind pairs */
    akv_u32 slow;      /* pairs from here on turn less than 5.2 radians in 128 positions */
    akv_u32 waves;     /* f32 [pairs - slow][2][16]: Chebyshev coefficients of their cos and sin of 0 .. 255 */
    akv_u32 basis;     /* f32 [16][16][16]: of run, degree, position in the run: what the coefficients go with */
    akv_u32 scales;    /* f32 [heads][2]: what storing and what reading multiplies by; 0: nothing */
    akv_u32 table_codes; /* i16 [slow][64][2]: cos and sin, times 32767, of the pairs before `slow`
                            times 0 .. 63 */
    akv_u32 basis_codes; /* i16 [4][8][64][2]: of 64 positions, degrees 2k and 2k + 1: basis times
                            32767 */
    akv_u32 pad;
} akv_map;
#define AKV_MAP_TABLE 16u /* positions of the table */
#define AKV_MAP_SPAN  64u /* of the integer codes */

/* encode: arg 0 rows, arg 1 tile in ROW order of tokens*heads rows (row = token*heads + head), arg 2 flags,
 * arg 3 maps (with AKV_FLAG_MAP). */
typedef struct akv_encode_params {
    akv_rows rows;
    akv_u32 tokens;
    akv_u32 dim;
    akv_u32 format;
    akv_u32 flags;
    akv_u32 map;      /* byte offset of the akv_map */
    akv_u32 position; /* of the first token; tokens follow each other */
} akv_encode_params;

/* decode: arg 0 tile in ROW order, arg 1 rows, arg 2 maps.  Fields as encode. */
typedef akv_encode_params akv_decode_params;

/* rotate: arg 0 rows in, arg 1 rows out (both f32, dense [tokens*heads][dim]).  flags: AKV_FLAG_ROTATE
 * set = forward with the storing scale; clear = back. */
typedef struct akv_rotate_params {
    akv_u32 rows;
    akv_u32 dim;
    akv_u32 flags;
    akv_u32 pad;
} akv_rotate_params;

/* One layer of a block, as seal and copy-like kernels see it. */
typedef struct akv_seal_layer {
    akv_u32 src_k, src_v; /* byte offset of head 0's tile in the 16-bit block */
    akv_u32 dst_k, dst_v; /* byte offset of head 0's tile in the packed block */
    akv_u32 k_map, v_map; /* byte offset of the akv_map, with AKV_FLAG_MAP */
} akv_seal_layer;
typedef struct akv_move {
    akv_u64 src, dst; /* pool addresses, or byte offsets in a linear span (copy) */
    akv_u32 position; /* seal: of the block's first row */
    akv_u32 pad;
} akv_move;

/* seal: 16-bit blocks to packed blocks.  arg 0 akv_seal_layer[layers], arg 1 akv_move[moves], arg 2 flags,
 * arg 3 maps.  All layers of one launch share formats and geometry.  Keys are stored in ROW order, values in QUAD. */
typedef struct akv_seal_params {
    akv_pool_map pool;
    akv_u32 moves;
    akv_u32 layers;
    akv_u32 kv_heads;
    akv_u32 block_tokens;
    akv_u32 k_dim, v_dim;
    akv_u32 hot_type; /* dtype of the source rows */
    akv_u32 k_format, v_format;
    akv_u32 k_flags, v_flags; /* AKV_FLAG_ROTATE or AKV_FLAG_MAP, AKV_FLAG_SEARCH */
    akv_u32 pad;
} akv_seal_params;

/* reencode: packed blocks to packed blocks of another kind, in the transformed domain: codes change,
 * transforms do not.  Arguments as seal; src offsets are of tiles in the source formats.  A side is
 * decoded exactly to f32 and its rows are encoded as rows of F32 are; where its two formats are the
 * same its tiles are copied.  A raw format is legal as a source, and as a destination of itself. */
typedef struct akv_reencode_params {
    akv_pool_map pool;
    akv_u32 moves;
    akv_u32 layers;
    akv_u32 kv_heads;
    akv_u32 block_tokens;
    akv_u32 k_dim, v_dim;
    akv_u32 k_source, v_source;
    akv_u32 k_format, v_format;
    akv_u32 k_flags, v_flags; /* AKV_FLAG_SEARCH */
} akv_reencode_params;

/* Step descriptor: one span, filled by the host at begin.  Byte offsets are from its start. */
typedef struct akv_step_head {
    akv_u32 sequences;
    akv_u32 tokens;          /* new tokens of all sequences */
    akv_u32 block_tokens;
    akv_u32 table_entries;
    akv_u32 seq_offset;      /* akv_step_seq[sequences] */
    akv_u32 token_offset;    /* akv_u32[tokens]: sequence of each new token */
    akv_u32 table_offset;    /* akv_u32[table_entries]: block tables */
    akv_u32 max_tokens;      /* largest count of one sequence */
    akv_u64 pad[4];
} akv_step_head;
typedef struct akv_step_seq {
    akv_u32 first_token;  /* its first new token in the batch */
    akv_u32 tokens;       /* how many it has; 0: only attends are impossible, it is skipped */
    akv_u32 length;       /* logical length before the step: new token i has position length + i */
    akv_u32 first_block;  /* logical block number of table[table_first]; earlier blocks were freed */
    akv_u32 table_first;  /* index into the table array */
    akv_u32 table_count;
    akv_u32 pad[2];
} akv_step_seq;

/* append: arg 0 descriptor, arg 1 k rows, arg 2 v rows.  Writes every new token's row into its
 * 16-bit block (kind 0), converted to the hot type (round to nearest even, integer code). */
typedef struct akv_append_params {
    akv_pool_map pool;
    akv_rows k, v;
    akv_u32 k_dim, v_dim;
    akv_u32 k_offset, v_offset; /* of head 0's tile of this layer in a kind-0 block */
    akv_u32 hot_type;
    akv_u32 max_tokens; /* declared maximum, for the size of a captured launch */
} akv_append_params;

/* Where one layer's tiles stand in a block of each kind, and in what format. */
typedef struct akv_tile_map {
    akv_u32 k_offset[AKV_KINDS], v_offset[AKV_KINDS]; /* of head 0; heads follow, one tile each */
    akv_u32 k_format[AKV_KINDS], v_format[AKV_KINDS]; /* 0: this kind is not used */
} akv_tile_map;

/* gather: decoded rows of a list of blocks, one layer, one side.  arg 0 akv_u32 table[blocks], arg 1
 * rows out [blocks*block_tokens][heads][dim] in rows.dtype, arg 2 maps.  Only `tokens` rows are written. */
typedef struct akv_gather_params {
    akv_pool_map pool;
    akv_rows rows;
    akv_u32 offset[AKV_KINDS];
    akv_u32 format[AKV_KINDS];
    akv_u32 order; /* AKV_ORDER_ROW for keys, AKV_ORDER_QUAD for values */
    akv_u32 flags; /* AKV_FLAG_ROTATE, AKV_FLAG_MAP: rows of quantised kinds are turned back */
    akv_u32 dim;
    akv_u32 blocks, block_tokens;
    akv_u32 first_row; /* rows to skip at the start of the first block */
    akv_u32 tokens;    /* rows to write */
    akv_u32 map;       /* byte offset of the akv_map */
    akv_u32 position;  /* of the first block's first row; blocks follow each other */
    akv_u32 pad;
} akv_gather_params;

/* copy: `moves` runs of `bytes` each.  arg 0 akv_move[moves], arg 1 a linear span (unused by POOL_POOL). */
#define AKV_COPY_POOL_POOL   0u
#define AKV_COPY_POOL_LINEAR 1u
#define AKV_COPY_LINEAR_POOL 2u
typedef struct akv_copy_params {
    akv_pool_map pool;
    akv_u32 moves;
    akv_u32 bytes; /* multiple of 16 */
    akv_u32 direction;
    akv_u32 pad;
} akv_copy_params;

#define AKV_ATTEND_BIDIRECTIONAL 1u /* new tokens see all new tokens of their sequence */
#define AKV_ATTEND_MASK          2u /* arg 4 holds an additive f32 bias, see below */
#define AKV_ATTEND_SINKS         4u /* arg 5 holds one f32 logit per q head */
#define AKV_ATTEND_LSE           8u /* arg 3 receives the log-sum-exp, natural logarithm */
#define AKV_ATTEND_PRECISE       16u /* no approximation for speed (int8 query, 8-bit weights) */

/* attend: arg 0 descriptor, arg 1 q rows, arg 2 out rows, arg 3 lse f32 [tokens][q_heads], arg 4 mask:
 * f32 [tokens][mask_stride], element (i, j) is added to the score of new token i against new token j of
 * its own sequence (-inf forbids; the causal rule does not apply among new tokens then), arg 5 sink
 * logits, arg 6 scratch (size from the backend's `check`), arg 7 maps.
 * score = scale * q.k, then cap * tanh(score / cap) where cap > 0, then + mask.  Position p sees keys at
 * positions p - window + 1 .. p (window 0: all).  A query that sees no key gives zeros (lse -inf). */
typedef struct akv_attend_params {
    akv_pool_map pool;
    akv_tile_map tiles;
    akv_rows q, out;
    akv_u32 kv_heads, q_heads;
    akv_u32 k_dim, v_dim;
    akv_u32 k_flags, v_flags; /* AKV_FLAG_ROTATE, AKV_FLAG_MAP: what quantised tiles hold */
    akv_u32 k_map, v_map;     /* byte offset of the akv_map */
    akv_u32 flags;            /* AKV_ATTEND_* */
    akv_u32 window;
    akv_u32 mask_stride;
    float scale, cap;
    akv_u32 max_tokens;    /* declared maximum of new tokens in a step */
    akv_u32 max_sequences; /* declared maximum of sequences in a step */
    akv_u32 max_length;    /* declared maximum of positions in a sequence */
    /* Bounds of this launch, at most the declared ones, for the size of its grid; 0: the declared
     * maximum, as a captured launch needs.  Results never depend on them. */
    akv_u32 bound_sequences;
    akv_u32 bound_seq_tokens; /* new tokens of one sequence */
    akv_u32 bound_length;     /* positions of one sequence, its new tokens included */
    akv_u32 block_tokens;     /* as in the descriptor; 0: unknown, which may cost speed */
} akv_attend_params;

/* ---- evict family (evict.h) ---- */
#define AKV_SCORE_NORM   0u /* -|k|^2 */
#define AKV_SCORE_AFFINE 1u /* <k, w> + b |k| */
#define AKV_SCORE_DIFF   2u /* -<k, w> / |k| */
#define AKV_SCORE_RATIO  3u /* |v| / |k|, in 1/65536 */
#define AKV_SCORE_METHODS 4u
#define AKV_MEAN_ROWS    1024u /* rows that one partial sum of mean takes */
#define AKV_MEAN_UNIT    0x1p20f /* of its integers */
#define AKV_MASS_UNIT    0x1p20f /* of the integers of attention mass */

/* score: arg 0 akv_u32 table[blocks], arg 1 weights, f32 [kv_heads][2][k_dim] (for rows that are
 * stored plain, for rotated ones; both are rows as the tile holds them), then b, f32 [kv_heads];
 * methods NORM and RATIO read none.  arg 2 scores out, akv_i32 [kv_heads][stride]. */
typedef struct akv_score_params {
    akv_pool_map pool;
    akv_tile_map tiles;
    akv_u32 kv_heads;
    akv_u32 k_dim, v_dim;
    akv_u32 block_tokens;
    akv_u32 blocks, rows; /* rows 0 .. rows-1 of the table's blocks are scored */
    akv_u32 stride;
    akv_u32 method;
    akv_u32 k_flags; /* AKV_FLAG_ROTATE: quantised kinds hold rotated keys */
    akv_u32 pad;
} akv_score_params;

/* mean: arg 0 akv_u32 table[blocks], arg 1 sums out, akv_i32 [parts][2][kv_heads][k_dim], a part for
 * each AKV_MEAN_ROWS rows: sums of rint(k / |k| * 2^20) over plain rows, over rotated ones. */
typedef akv_score_params akv_mean_params;

/* mass: arg 0 akv_u32 table[blocks], arg 1 queries f32 [2][queries][q_heads][k_dim] (for plain keys,
 * for rotated ones: turned with akv_rotate_read), arg 2 log-sum-exp f32 [queries][q_heads], arg 3
 * akv_u32 position[queries] as row numbers of the table, arg 4 scores, akv_i32 [kv_heads][stride],
 * added to. */
typedef struct akv_mass_params {
    akv_pool_map pool;
    akv_tile_map tiles;
    akv_u32 kv_heads, q_heads;
    akv_u32 k_dim;
    akv_u32 block_tokens;
    akv_u32 blocks, rows;
    akv_u32 stride;
    akv_u32 queries;
    akv_u32 k_flags;
    akv_u32 window;
    float scale, cap;
} akv_mass_params;

#define AKV_SELECT_HEADS    256u /* of a problem, at most */
#define AKV_SELECT_ADAPTIVE 1u /* the heads of a problem share one budget */
#define AKV_SELECT_SHARED   2u /* the heads of a problem keep the same rows, by their mean score */

/* select: arg 0 scores akv_i32 [problems*heads][stride], arg 1 kept rows out, akv_u32
 * [problems*heads][stride], arg 2 how many, akv_u32 [problems*heads]. */
typedef struct akv_select_params {
    akv_u32 problems, heads;
    akv_u32 rows, stride;
    akv_u32 first, last; /* candidates; rows before and after are kept */
    akv_u32 unit;        /* rows that stay or go together, last - first is a multiple */
    akv_u32 pool;        /* odd: a row's value is the mean over so many neighbours */
    akv_u32 keep;        /* units of the candidates that a head keeps (on average, if adaptive) */
    akv_u32 least;       /* adaptive: units that every head keeps at least */
    akv_u32 flags;       /* AKV_SELECT_* */
    akv_u32 pad;
} akv_select_params;

/* compact: arg 0 akv_u32 from[from_blocks], arg 1 akv_u32 to[to_blocks], arg 2 rows akv_u32
 * [kv_heads][stride] ascending, arg 3 counts akv_u32 [kv_heads].  All blocks are of kind `kind`. */
typedef struct akv_compact_params {
    akv_pool_map pool;
    akv_u32 kv_heads;
    akv_u32 block_tokens;
    akv_u32 dim[2], format[2], offset[2]; /* keys, values; of head 0's tile in a block */
    akv_u32 from_blocks, to_blocks;
    akv_u32 stride;
    akv_u32 in_place; /* `to` is a beginning of `from` */
} akv_compact_params;

/* bx16_count: arg 0 bf16 elements, arg 1 akv_u32 [256], to which the number of elements with each
 * exponent is added.  bx16_encode: arg 0 elements, arg 1 body out.  bx16_decode: arg 0 body, arg 1
 * elements out, arg 2 akv_u32, set to 1 where the body is damaged, else left alone. */
typedef struct akv_bx16_params {
    akv_u32 elements; /* at most 2^30 */
    akv_u32 escapes;  /* of all pieces; not of count */
    akv_u32 table[4]; /* 16 exponents, ascending; not of count */
} akv_bx16_params;
typedef akv_bx16_params akv_bx16_count_params;
typedef akv_bx16_params akv_bx16_encode_params;
typedef akv_bx16_params akv_bx16_decode_params;

/* Words of one plane of symbols (rans.h); strides in words. */
typedef struct akv_rans_plane {
    akv_u32 bits; /* of a symbol: 1, 2, 4 or 8; plane 1: 0, there is none */
    akv_u32 at;
    akv_u32 tile, step, head, group, word;
    akv_u32 pad;
} akv_rans_plane;

/* rans_count: arg 0 words of symbols, arg 1 akv_u32 [columns][16], to which the number of symbols of each
 * class is added.  rans_encode: arg 0 words, arg 1 model, arg 2 body out, of akv_rans_body_most() bytes,
 * arg 3 scratch of as many.  rans_decode: arg 0 body, arg 1 model, arg 2 words out, arg 3 akv_u32, set
 * to 1 where the body is damaged, else left alone. */
typedef struct akv_rans_params {
    akv_rans_plane plane[2];
    akv_u32 heads, groups, tiles, tile_steps;
    akv_u32 last;   /* lanes of a tile's last step: 16 or 32 */
    akv_u32 raw;    /* bits below the class, or AKV_RANS_SIGNED */
    akv_u32 centre; /* AKV_RANS_SIGNED: below 256 */
    akv_u32 tables; /* 1 … 16; not of count */
    akv_u32 words;  /* of all segments; of decode only */
    akv_u32 pad[3];
} akv_rans_params;
typedef akv_rans_params akv_rans_count_params;
typedef akv_rans_params akv_rans_encode_params;
typedef akv_rans_params akv_rans_decode_params;

/* Low-rank compression (lowrank.h).  Rows are dense, [tokens][heads][dim]; coefficients and sums are f32
 * [tokens][heads*dim], centre is f16 [heads*dim], turns akv_u64 [pairs].  lowrank_project: arg 0 rows, arg 1
 * basis f32 [heads][i][j], arg 2 centre or absent, arg 3 turns or absent, arg 4 coefficients out.
 * lowrank_read: arg 0 codes i8 [tokens][columns], arg 1 shifts u8 [heads*dim], arg 2 coefficients out.
 * lowrank_rows: arg 0 sums, arg 1 centre or absent, arg 2 turns or absent, arg 3 rows out. */
typedef struct akv_lowrank_params {
    akv_u32 tokens, heads, dim;
    akv_u32 columns;  /* read: at least heads*dim */
    akv_u32 step;     /* read: bits of an f32 */
    akv_u32 dtype;    /* project, rows */
    akv_u32 position; /* project, rows: of the first token */
    akv_u32 pairs;    /* project, rows: of the rotary embedding, 0: none */
    akv_u32 rope;     /* project, rows: AKV_ROPE_* */
    akv_u32 pad;
} akv_lowrank_params;
typedef akv_lowrank_params akv_lowrank_project_params;
typedef akv_lowrank_params akv_lowrank_read_params;
typedef akv_lowrank_params akv_lowrank_rows_params;

/* multiply: c = a * b, `batch` times, f32, row-major: a is [m][k], b [k][n], c [m][n].  A row begins lda
 * (ldb, ldc) elements behind the one before, a product's matrix a_step (b_step, c_step) behind that of the
 * product before.  arg 0 a, arg 1 b, arg 2 c.  Products are summed in any order: an element is off by at
 * most 1.01 * k * 2^-24 times the sum of |a * b|. */
typedef struct akv_multiply_params {
    akv_u32 m, n, k, batch;
    akv_u32 lda, ldb, ldc, pad;
    akv_u64 a_step, b_step, c_step;
} akv_multiply_params;

/* shift: keys of the blocks of one kind among a table's are turned on, in place.  arg 0 akv_u32
 * table[blocks], arg 1 flags, arg 2 maps, arg 3 akv_u64 phases[pairs], how far each pair turns
 * (akv_shift_phase; rope.h).  A row of a quantised format is decoded and taken back through rotation or
 * matrix, but not through scales and mean, which turn with it; its pairs are turned, it is made sane, and
 * stored again as rows of F32 are.  Raw rows are made sane, turned, made sane and rounded. */
typedef struct akv_shift_params {
    akv_pool_map pool;
    akv_u32 blocks;
    akv_u32 kind, format, offset; /* offset: of head 0's tile of keys */
    akv_u32 kv_heads, block_tokens, dim;
    akv_u32 flags; /* AKV_FLAG_ROTATE or AKV_FLAG_MAP, AKV_FLAG_SEARCH; raw formats: none */
    akv_u32 map, pairs, rope;
    akv_u32 pad;
} akv_shift_params;

#endif
