// sm90_nonoverlap: x from global memory to fragments. A warp copies what its 16 positions want into its own place in
// shared memory, ahead of time, and brings it to halves in registers.
#pragma once

#if CONVT3D__PART(4)

#include "mma.cuh"
#include "nonoverlap90_tile.cuh"

namespace convt3d_cuda {

// Copies 16 bytes, or zero, to shared memory.
static __device__ __forceinline__ void copy_ahead(uint32_t to, const void *from, bool exists)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                 :: "r"(to), "l"(from), "r"(exists ? 16 : 0) : "memory");
}

static __device__ __forceinline__ void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for the oldest of `stages` groups.
static __device__ __forceinline__ void copies_wait(int stages)
{
    if (stages == 1) asm volatile("cp.async.wait_group 0;" ::: "memory");
    else if (stages == 2) asm volatile("cp.async.wait_group 1;" ::: "memory");
    else asm volatile("cp.async.wait_group 2;" ::: "memory");
    __syncwarp();
}

// Lane q of a quad wants, of 16 bytes' worth of channels, every fourth: `wide` channels from q*wide on, and on, 4*wide
// further. Which k of the product a channel becomes is nobody's concern but the packing's of w.
//
// A warp's place in a stage holds its 16 positions. Byte of an element of it. Channels last: 16-byte pieces as their
// readers want them, [piece of a reader][half of the positions][lane]. Otherwise [channel][position], pieces exchanged
// so that the four readers of a fragment's row find different banks.
template <class T, bool ChannelsLast> __device__ __forceinline__ int nonoverlap90_byte(int position, int channel)
{
    const int size = sizeof(T), wide = 16 / size;
    if (ChannelsLast)
        return ((channel / (4 * wide) * 2 + position / 8) * 32 + position % 8 * 4 + channel / wide % 4) * 16 +
               channel % wide * size;
    return (channel * 16 * size + position * size) ^ (channel / wide % 4) << 5;
}

// What a lane copies: 16 bytes of the same one or two positions in every chunk.
struct Nonoverlap90Ask { int number, tile, chunk;  int64_t at[2]; };    // offsets of the positions in x; -1: none

template <class T, bool ChannelsLast>
__device__ __forceinline__ void nonoverlap90_aim(const Nonoverlap90Problem &p, Nonoverlap90Ask &ask)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, begin = ask.tile * 64 + warp * 16;
    if (ChannelsLast) {
        ask.at[0] = nonoverlap90_position(p, begin + lane / 4).x;
        ask.at[1] = nonoverlap90_position(p, begin + lane / 4 + 8).x;
    } else ask.at[0] = nonoverlap90_position(p, begin + lane % (int)sizeof(T) * (16 / (int)sizeof(T))).x;
}

// Asks for one chunk of a tile. Whole: all of it exists.
template <class Mode, class Tile, bool ChannelsLast, bool Whole>
__device__ __forceinline__ void nonoverlap90_copy(const Nonoverlap90Problem &p, uint32_t place,
                                                  const Nonoverlap90Ask &ask)
{
    typedef typename Mode::T T;
    enum { Size = sizeof(T), Wide = 16 / Size };
    const T *x = (const T *)p.x;
    int lane = threadIdx.x % 32, channel = ask.chunk * Tile::Channels;
    if (ChannelsLast) {
        channel += lane % 4 * Wide;
        const T *from[2] = {x + ask.at[0] + channel, x + ask.at[1] + channel};
        place += lane * 16;
#pragma unroll
        for (int i = 0; i < Tile::Channels / (4 * Wide); i++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                bool exists = Whole || (ask.at[r] >= 0 && channel + i * 4 * Wide < p.in_channels);
                copy_ahead(place + (i * 2 + r) * 32 * 16, from[r] + i * 4 * Wide, exists);
            }
    } else {
        const int step = 32 / Size, mine = lane / Size, position = lane % Size * Wide;       // channels
        channel += mine;
        const T *from = x + ask.at[0] + channel * p.x_stride[1];
        const int64_t next = step * p.x_stride[1];
        const int to = nonoverlap90_byte<T, false>(position, mine);
#pragma unroll
        for (int c = 0; c < Tile::Channels; c += step) {
            bool exists = Whole || (ask.at[0] >= 0 && channel + c < p.in_channels);
            copy_ahead(place + (to ^ (c / Wide % 4) << 5) + c * 16 * Size, from, exists);
            from += next;
        }
    }
}

// The same with plain loads, element by element.
template <class Mode, class Tile, bool ChannelsLast>
__device__ __noinline__ void nonoverlap90_copy_singly(const Nonoverlap90Problem &p, unsigned char *place, int tile,
                                                      int chunk)
{
    typedef typename Mode::T T;
    const T *x = (const T *)p.x;
    int lane = threadIdx.x % 32, begin = tile * 64 + threadIdx.x / 32 % 4 * 16;
    int64_t at = nonoverlap90_position(p, begin + lane % 16).x;
#pragma unroll 1
    for (int c = lane / 16; c < Tile::Channels; c += 2) {
        int channel = chunk * Tile::Channels + c;
        T v = Number<T>::round(0);
        if (at >= 0 && channel < p.in_channels) v = x[at + channel * p.x_stride[1]];
        *(T *)(place + nonoverlap90_byte<T, ChannelsLast>(lane % 16, c)) = v;
    }
}

// place: the warp's, in a stage.
template <class Mode, class Tile, bool ChannelsLast>
__device__ __forceinline__ void nonoverlap90_ask(const Nonoverlap90Problem &p, unsigned char *place,
                                                 Nonoverlap90Ask &ask)
{
    bool whole = (ask.chunk + 1) * (int)Tile::Channels <= p.in_channels && ask.tile * 64 + 64 <= p.positions;
    if (!p.aligned) {
        nonoverlap90_copy_singly<Mode, Tile, ChannelsLast>(p, place, ask.tile, ask.chunk);
        return;
    }
    if (!Tile::Long || ask.chunk == 0) nonoverlap90_aim<typename Mode::T, ChannelsLast>(p, ask);
    if (whole) nonoverlap90_copy<Mode, Tile, ChannelsLast, true>(p, shared_address(place), ask);
    else nonoverlap90_copy<Mode, Tile, ChannelsLast, false>(p, shared_address(place), ask);
}

// A chunk as fragments of A, Parts of them; what undoes the scale of the thread's two positions; which are wide.
template <class Mode, class Tile> struct Nonoverlap90Fragments {
    enum { Steps = Tile::Channels / 16 };
    uint32_t high[Steps][4], low[Mode::Parts == 2 ? Steps : 1][4];
    float inverse[2];
    bool wide[2];
};

static __device__ __forceinline__ uint32_t halves_of(float a, float b)
{
    __half2 h = __floats2half2_rn(a, b);
    return *(uint32_t *)&h;
}

// The halves of two scaled floats, and what is left of them times 2^11 as halves.
static __device__ __forceinline__ void split_far(float a, float b, float factor, uint32_t &high, uint32_t &low)
{
    __half2 h = __floats2half2_rn(a * factor, b * factor);
    float2 f = __half22float2(h);
    float more = factor * 2048;
    high = *(uint32_t *)&h;
    low = halves_of(fmaf(f.x, -2048.0f, a * more), fmaf(f.y, -2048.0f, b * more));
}

// The thread's elements, 32 bits each: v[(i * 2 + r) * 4 + c] is channel 16i + 4q + c of its position r.
template <class Tile, bool ChannelsLast>
__device__ __forceinline__ void nonoverlap90_read(const Nonoverlap90Problem &p, const unsigned char *place,
                                                  uint32_t (&v)[Tile::Channels / 2])
{
    enum { Pieces = Tile::Channels / 16 };
    int lane = threadIdx.x % 32, q = lane % 4, g = lane / 4;
    const unsigned char *from = place + (ChannelsLast ? lane * 16 : q * 4 * 64);
    // Bit 6 of an offset is the channel's lowest, bit 5 the position's highest: q exchanges them.
    int pair = g * 8 ^ q << 5, low = g * 4 ^ q << 5, high = low ^ 32;
    if (ChannelsLast) {
#pragma unroll
        for (int i = 0; i < 2 * Pieces; i++) {
            uint4 u = *(const uint4 *)(from + i * 32 * 16);
            v[4 * i] = u.x;  v[4 * i + 1] = u.y;  v[4 * i + 2] = u.z;  v[4 * i + 3] = u.w;
        }
    } else if (p.pairs) {
#pragma unroll
        for (int i = 0; i < Pieces * 4; i++) {
            uint2 u = *(const uint2 *)(from + i / 4 * 1024 + i % 4 / 2 * 128 + (pair ^ i % 2 * 64));
            v[i / 4 * 8 + i % 4] = u.x;
            v[i / 4 * 8 + 4 + i % 4] = u.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < Pieces * 4; i++) {
            const unsigned char *at = from + i / 4 * 1024 + i % 4 / 2 * 128;
            v[i / 4 * 8 + i % 4] = *(const uint32_t *)(at + (low ^ i % 2 * 64));
            v[i / 4 * 8 + 4 + i % 4] = *(const uint32_t *)(at + (high ^ i % 2 * 64));
        }
    }
}

template <class Mode, class Tile, bool ChannelsLast>
__device__ __forceinline__ void nonoverlap90_scaled(const Nonoverlap90Problem &p, const unsigned char *place,
                                                    Nonoverlap90Fragments<Mode, Tile> &a)
{
    uint32_t v[Tile::Channels / 2];
    nonoverlap90_read<Tile, ChannelsLast>(p, place, v);
    float factor[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        Magnitudes range;
#pragma unroll
        for (int i = 0; i < Tile::Channels / 4; i++) {
            uint32_t bits = v[i / 4 * 8 + r * 4 + i % 4];
            if (Mode::Narrow) range.add(bits);
            else range.most = max(range.most, bits + bits);
        }
        range.most = max(range.most, __shfl_xor_sync(0xffffffffu, range.most, 1));
        range.most = max(range.most, __shfl_xor_sync(0xffffffffu, range.most, 2));
        if (Mode::Narrow) {
            range.least = min(range.least, __shfl_xor_sync(0xffffffffu, range.least, 1));
            range.least = min(range.least, __shfl_xor_sync(0xffffffffu, range.least, 2));
        }
        HalfScale scale(range, Mode::Narrow ? p.keep : 0);
        factor[r] = scale.factor;
        a.inverse[r] = scale.inverse;
        a.wide[r] = scale.wide;
    }
#pragma unroll
    for (int s = 0; s < a.Steps; s++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = i % 2, c = s * 8 + r * 4 + i / 2 * 2;
            float u0 = __uint_as_float(v[c]), u1 = __uint_as_float(v[c + 1]);
            if (Mode::Parts == 2) split_far(u0, u1, factor[r], a.high[s][i], a.low[s][i]);
            else a.high[s][i] = halves_of(u0 * factor[r], u1 * factor[r]);
        }
}

// Two positions 8 apart, of a channel and of the one 4 further.
static __device__ __forceinline__ void nonoverlap90_apart(const unsigned char *at, uint32_t &v, uint32_t &v4)
{
    v = *(const uint16_t *)at | (uint32_t)*(const uint16_t *)(at + 16) << 16;
    v4 = *(const uint16_t *)(at + 128) | (uint32_t)*(const uint16_t *)(at + 144) << 16;
}

template <class Mode, class Tile, bool ChannelsLast>
__device__ __forceinline__ void nonoverlap90_unscaled(const Nonoverlap90Problem &p, const unsigned char *place,
                                                      Nonoverlap90Fragments<Mode, Tile> &a)
{
    int lane = threadIdx.x % 32, q = lane % 4, g = lane / 4;
#pragma unroll
    for (int b = 0; b < Tile::Channels / 32; b++) {
        if (ChannelsLast) {
            uint4 u = *(const uint4 *)(place + (b * 2 * 32 + lane) * 16);
            uint4 v = *(const uint4 *)(place + ((b * 2 + 1) * 32 + lane) * 16);
            a.high[2 * b][0] = u.x;  a.high[2 * b][2] = u.y;  a.high[2 * b + 1][0] = u.z;  a.high[2 * b + 1][2] = u.w;
            a.high[2 * b][1] = v.x;  a.high[2 * b][3] = v.y;  a.high[2 * b + 1][1] = v.z;  a.high[2 * b + 1][3] = v.w;
            continue;
        }
        const unsigned char *from = place + (b * 32 + q * 8) * 32;
        uint32_t v[8];      // channel 8q + c of both positions
        // Bits 5 and 6 of an offset are the channel's lowest: q exchanges them.
        if (p.pairs) {
#pragma unroll
            for (int c = 0; c < 8; c++) v[c] = *(const uint32_t *)(from + c / 4 * 128 + (g * 4 ^ q << 5 ^ c % 4 * 32));
        } else {
#pragma unroll
            for (int c = 0; c < 4; c++) nonoverlap90_apart(from + (g * 2 ^ q << 5 ^ c * 32), v[c], v[c + 4]);
        }
#pragma unroll
        for (int c = 0; c < 8; c += 2) {
            a.high[2 * b + c / 4][c / 2 % 2 * 2] = __byte_perm(v[c], v[c + 1], 0x5410);
            a.high[2 * b + c / 4][c / 2 % 2 * 2 + 1] = __byte_perm(v[c], v[c + 1], 0x7632);
        }
    }
}

}

#endif
