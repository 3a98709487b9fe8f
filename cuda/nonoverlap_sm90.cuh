// sm90_nonoverlap: kernel == stride and nothing padded or cropped, on wgmma: the decoder of a U-Net, patch recovery.
//
// Idea      One GEMM: positions of x by rows of w, (oc, tap), and every element of the product is an output. Positions
//           are operand A and lie in registers: a warp copies what its 16 positions want by cp.async into its own place
//           in shared memory, a tile or some chunks ahead, and brings it to halves itself. So warps trade nothing,
//           and after the weights (operand B: packed once, by a kernel of their own while the main one starts, then
//           loaded by each block and kept) no barrier is met: loads, products and stores of 8 to 16 warps overlap.
//           Stores fill the way from a multiprocessor to memory, and every load from shared memory queues behind them:
//           so a piece's table is read before its stores begin, where there are registers for it, and nothing lies on
//           the stack. In NCDHW, where chunks follow one another and there is one part, the next is read while
//           products run.
// Rows      of w are ordered so that a thread holds neighbours of y: two positions x two taps along W, four taps, or
//           four channels (channels last): 16-byte stores, 128 bytes of a row by a warp.
// f32       v = high + low / 2^11, two halves, after a power-of-two scale per position and per line of w. The cross
//           terms are summed first, their sum is taken down by 2^11, then high * high is added: low halves have a range
//           of their own and need no accumulator of their own. Long sums are promoted to f32 every 64 channels. Only
//           infinity, NaN and magnitudes beyond 2^+-60 are computed again, by f32 FMA: the position's outputs alone.
// TF32      one product of scaled halves, whose 11 bits are TF32's; magnitudes too far apart are computed again.
// f16, bf16 one product, f32 accumulator.
// Requires  sm_90a code; f32, f16 or bf16; one group; kernel == stride, padding 0 and the whole output on each axis;
//           NCDHW with W innermost in y and a kernel of 1, 2 or 4 along W, or NDHWC with channels innermost in x and y
//           and out_channels (times the kernel along W where y is dense) a multiple of 4; 32-bit indices, and offsets
//           inside a sample. What is not aligned (16 bytes; an even width; runs of 16 bytes of positions) is moved one
//           element at a time, and costs four times as much.
// Tiles     64 positions a warpgroup x N rows of w. Short, all channels in registers and any number of N rows: 64
//           channels N 64, 128 channels N 64 or (two parts) 128. Long, 64 channels at a time and as many rows as
//           accumulators: N 32, 80, 2 x 64 (one part, NCDHW: 128), 160. Two parts of 160 rows that do not fit together
//           are streamed (NCDHW): a block keeps the high halves, the low ones pass through two slots. The cheapest by
//           nonoverlap90_estimate(). Tiles left over when every warpgroup has had as many are shared by rows.
// Measured  one H200, NCDHW, w packed inside the call, us in f32, TF32, f16: nnunet_64_32_64 195, 195, 99;
//           nnunet_128_64_32 63, 54, 32; nnunet_256_128_16 43, 33, 18; nnunet_320_320_4 13.2, 12.6, 8.6; pangu_384_5
//           425, 264, 158.
// List      a light one (NCDHW: an affine head, then ReLU, a clamp, LeakyReLU or SiLU) is applied to a sum as its bias
//           is, on the way to y: nnunet_64_32_64 with ReLU 197 us in f32 and 100 in f16, with SiLU 197 and 121.
//           Instances of their own for all others apply it to the sums of a piece, in registers: GELU 279, add 392.
// Did not help: eight 16-bit channels a thread (its tables then meet bank conflicts); more accumulators, fewer warps;
//           w packed by each block for itself (5 us at best, 11 at 256 x 128 in f32); a pack kernel that starts before
//           the kernel ahead of it ends; two or three chunks asked for ahead where all channels are one; in f32 the
//           next chunk brought to halves while products run, by two warpgroups (pangu 503 us); a piece's table read
//           early for a list.
#pragma once

CONVT3D__DECLARE_KERNEL(nonoverlap90)
CONVT3D__DECLARE_PACK(nonoverlap90)

#if CONVT3D__PART(4)

#include "nonoverlap90_store.cuh"

namespace convt3d_cuda {

#if CONVT3D__SM90A

// Has fragments in their registers before the fence.
template <int Steps> __device__ __forceinline__ void nonoverlap90_settle(uint32_t (&a)[Steps][4])
{
#pragma unroll
    for (int s = 0; s < Steps; s++)
        asm volatile("" : "+r"(a[s][0]), "+r"(a[s][1]), "+r"(a[s][2]), "+r"(a[s][3]) :: "memory");
}

// sum = A times N rows of w, the cross terms first; with `more` it is added to what sum holds. first_cell, low_cell: of
// their parts, from `weights` on.
// meanwhile(): what is done while the last products run.
template <class Mode, class Tile, class Meanwhile>
__device__ __forceinline__ void nonoverlap90_multiply(Nonoverlap90Fragments<Mode, Tile> &a, uint64_t weights,
                                                      int first_cell, int low_cell, int k_cells, bool more,
                                                      float (&sum)[Tile::N / 2], Meanwhile meanwhile)
{
    typedef WgmmaRows<typename Mode::Operand, Tile::N> Wgmma;
    enum { Steps = Tile::Channels / 16 };
    uint64_t high = wgmma_advance(weights, first_cell);
    nonoverlap90_settle(a.high);
    if constexpr (Mode::Parts == 2) {
        uint64_t low = wgmma_advance(weights, low_cell);
        nonoverlap90_settle(a.low);
        wgmma_fence();
#pragma unroll
        for (int s = 0; s < Steps; s++) Wgmma::multiply(sum, a.low[s], wgmma_advance(high, 2 * s * k_cells), s > 0);
#pragma unroll
        for (int s = 0; s < Steps; s++) Wgmma::multiply(sum, a.high[s], wgmma_advance(low, 2 * s * k_cells), 1);
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_pin(sum);
#pragma unroll
        for (int i = 0; i < Tile::N / 2; i++) sum[i] *= 1.0f / 2048;
    }
    wgmma_pin(sum);
    wgmma_fence();
#pragma unroll
    for (int s = 0; s < Steps; s++)
        Wgmma::multiply(sum, a.high[s], wgmma_advance(high, 2 * s * k_cells),
                        Mode::Parts == 2 || s > 0 ? 1 : (int)more);
    wgmma_commit();
    meanwhile();
    wgmma_wait<0>();
    wgmma_pin(sum);
}

template <class Mode, class Tile, bool ChannelsLast, int Lists>
__device__ __forceinline__ void nonoverlap90_work(const Nonoverlap90Problem &p, const List<typename Mode::T> &list)
{
    typedef typename Mode::T T;
    extern __shared__ __align__(128) unsigned char nonoverlap90_memory[];
    unsigned char *shared = nonoverlap90_memory;
    const Nonoverlap90Shared<Mode, Tile, Lists> layout(p.rows, p.chunks, p.stages, p.lines);
    const int group = __shfl_sync(0xffffffffu, (int)(threadIdx.x / 128), 0), lane = threadIdx.x % 32;
    const int slice = (int)(blockIdx.x % (unsigned)p.slices), groups = p.blocks_of_slice * Tile::Groups;
    const int me = (int)(blockIdx.x / (unsigned)p.slices) * Tile::Groups + group;
    const int chunks = Tile::Long ? p.chunks : 1;
    const int warp = (int)threadIdx.x / 32 % 4;
    unsigned char *places = shared + layout.stages + group * p.stages * layout.Stage + warp * (layout.Stage / 4);
    const unsigned char *packed = p.packed + slice * nonoverlap90_packed_slice<Mode>(p, p.chunks * Tile::Channels);
    const uint32_t *magnitudes = (const uint32_t *)(packed + layout.slot * p.chunks * Mode::Parts);

    Nonoverlap90Ask next = {0, nonoverlap90_tile_of(p, me, groups, 0), 0, {-1, -1}};
    int stage = 0;
    auto ask = [&](int at) {
        if (next.tile < p.tiles) {
            nonoverlap90_ask<Mode, Tile, ChannelsLast>(p, places + at * layout.Stage, next);
            if (!Tile::Long || ++next.chunk == chunks) {
                next.chunk = 0;
                next.tile = nonoverlap90_tile_of(p, me, groups, ++next.number);
            }
        }
        copies_end();
    };
    for (int i = 0; i < p.stages; i++) ask(i);
    nonoverlap90_prepare<Mode, Tile, ChannelsLast, Lists>(p, list, layout, shared, slice);

    uint64_t weights = wgmma_descriptor(shared_address(shared), p.rows);
    int part_cells = p.chunks * Tile::Channels / 8 * p.rows;
    [[maybe_unused]] Nonoverlap90Stream<Mode, Tile, Lists> stream = {
        layout, shared, packed + layout.slots, chunks, 0,
        (p.rounds + (me - group < p.left * p.shares ? 1 : 0)) * chunks};
    if (Tile::Streams && threadIdx.x < 32) { stream.fill(0);  stream.fill(1); }
    // What has one part has registers for the next chunk's fragments: they are read while products run.
    enum { Ahead = !ChannelsLast && Tile::Long && Mode::Parts == 1 && Tile::Groups < 4 };
    // Whether registers are left for a piece's table, beside what is held while it is stored.
    enum { Held = Tile::Long ? Tile::Pieces * Tile::N / 2 : Tile::N / 2 + Tile::Channels / 4 * Mode::Parts,
           Early = Lists == NO_LIST && Held + Tile::N / 8 * 3 + 40 + 12 * Mode::Scaled <= 65536 / Tile::Threads };
    Nonoverlap90Fragments<Mode, Tile> a, second;
    float sum[Tile::N / 2], total[Tile::Long ? Tile::Pieces : 1][Tile::Long ? Tile::N / 2 : 1];
    for (int number = 0, tile; (tile = nonoverlap90_tile_of(p, me, groups, number)) < p.tiles; number++) {
        bool wide[2] = {false, false};
        int share = number == p.rounds ? me / p.left : 0, shares = number == p.rounds ? p.shares : 1;
        int pieces = p.rows / Tile::N, begin = share * pieces / shares, end = (share + 1) * pieces / shares;
        auto take = [&](Nonoverlap90Fragments<Mode, Tile> &to) {
            copies_wait(p.stages);
            if constexpr (Mode::Scaled) {
                nonoverlap90_scaled<Mode, Tile, ChannelsLast>(p, places + stage * layout.Stage, to);
                wide[0] = wide[0] || to.wide[0];
                wide[1] = wide[1] || to.wide[1];
            } else nonoverlap90_unscaled<Mode, Tile, ChannelsLast>(p, places + stage * layout.Stage, to);
        };
        auto taken = [&] {
            __syncwarp();
            ask(stage);
            if (++stage == p.stages) stage = 0;
        };
        [[maybe_unused]] auto add_chunk = [&](int chunk, Nonoverlap90Fragments<Mode, Tile> &now,
                                              Nonoverlap90Fragments<Mode, Tile> &next) {
            const bool more = Ahead && chunk + 1 < chunks;
            int cell = chunk * (Tile::Channels / 8) * p.rows;
#pragma unroll
            for (int h = 0; h < Tile::Pieces; h++, cell += Tile::N) {
                auto meanwhile = [&] {
                    if (Tile::Streams) stream.leave();
                    if (Ahead && h == Tile::Pieces - 1 && more) take(next);
                };
                if constexpr (!Tile::Long) continue;
                else if constexpr (Mode::Scaled) {
                    const int low = Tile::Streams ? stream.next() : cell + part_cells;
                    nonoverlap90_multiply<Mode, Tile>(now, weights, cell, low, p.rows, false, sum, meanwhile);
#pragma unroll
                    for (int i = 0; i < Tile::N / 2; i++)
                        total[h][i] = fmaf(sum[i], now.inverse[i / 2 % 2], total[h][i]);
                } else nonoverlap90_multiply<Mode, Tile>(now, weights, cell, 0, p.rows, chunk > 0, total[h], meanwhile);
            }
            if (more) taken();
        };
        if constexpr (Tile::Long && Mode::Scaled)
#pragma unroll
            for (int i = 0; i < Tile::Pieces * Tile::N / 2; i++) total[i / (Tile::N / 2)][i % (Tile::N / 2)] = 0;
        take(a);
        taken();
        if constexpr (Ahead) {
#pragma unroll 1
            for (int chunk = 0; chunk < chunks; chunk += 2) {
                add_chunk(chunk, a, second);
                if (chunk + 1 < chunks) add_chunk(chunk + 1, second, a);
            }
        } else if constexpr (Tile::Long) {
            add_chunk(0, a, a);
#pragma unroll 1
            for (int chunk = 1; chunk < chunks; chunk++) {
                take(a);
                taken();
                add_chunk(chunk, a, a);
            }
        }
        Nonoverlap90Finish<T, Tile::N, ChannelsLast, Lists, Early> finish = {
            p, list, (const Nonoverlap90Line *)(shared + layout.lines),
            shared + layout.heads, {}, slice, {}, {}, {}};
        // With a list what is repaired is stored once, since y may be a residual. Pairs are stored together.
        if (Lists && p.pairs) wide[0] = wide[1] = wide[0] || wide[1];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            finish.position[r] = nonoverlap90_place(p, tile, warp, lane / 4 + 8 * r);
            finish.at[r] = nonoverlap90_position(p, finish.position[r]).y;
            finish.here[r] = finish.at[r] >= 0 && !(Lists && wide[r]);
        }
        if constexpr (Tile::Long) {
            const float one[2] = {1, 1};
#pragma unroll
            for (int h = 0; h < Tile::Pieces; h++) {
                finish.ask_lines(h);
                finish.store(total[h], one, h);
            }
        } else {
            float undo[2] = {Mode::Scaled ? a.inverse[0] : 1, Mode::Scaled ? a.inverse[1] : 1};
#pragma unroll 1
            for (int piece = begin; piece < end; piece++) {
                if (Lists == WHOLE_LIST && list.residual < list.count) finish.ask_residual(piece);
                nonoverlap90_multiply<Mode, Tile>(a, weights, piece * Tile::N, piece * Tile::N + part_cells, p.rows,
                                                  false, sum, [&] { finish.ask_lines(piece); });
                finish.store(sum, undo, piece);
            }
        }
        if constexpr (Mode::Scaled) {
            uint32_t first = __ballot_sync(0xffffffffu, wide[0]), second = __ballot_sync(0xffffffffu, wide[1]);
            uint32_t any_row = *(const uint32_t *)(shared + layout.any_wide);
            if (first | second | any_row) {
                uint32_t rows = 0;
                for (int i = 0; i < 8; i++) rows |= (first >> 4 * i & 1) << i | (second >> 4 * i & 1) << (i + 8);
                __syncwarp();
                nonoverlap90_repair<ChannelsLast>(p, list, magnitudes, slice, tile, rows, begin * Tile::N,
                                                  end * Tile::N, any_row != 0, Mode::Narrow);
            }
        }
    }
    if constexpr (Tile::Streams)        // warpgroups that had a tile less
        while (stream.at < stream.end) { stream.next();  stream.leave(); }
}

#endif

template <class Mode, class Tile, bool ChannelsLast, int Lists>
__global__ void __launch_bounds__(Tile::Threads, 1)
nonoverlap90_kernel(const __grid_constant__ Nonoverlap90Problem p, const __grid_constant__ List<typename Mode::T> list)
{
#if CONVT3D__SM90A
    nonoverlap90_work<Mode, Tile, ChannelsLast, Lists>(p, list);
#endif
}

}

#endif
