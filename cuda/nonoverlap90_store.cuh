// sm90_nonoverlap: from sums to y, with bias, scales and the list; and what halves cannot hold, again by f32 FMA.
#pragma once

#if CONVT3D__PART(4)

#include "nonoverlap90_pack.cuh"

namespace convt3d_cuda {

// Streaming stores of Count neighbours; the predicate saves a branch.
template <class T, int Count, bool Aligned>
__device__ __forceinline__ void nonoverlap90_store(T *at, const float *v, bool here)
{
    alignas(16) T rounded[Count];
#pragma unroll
    for (int i = 0; i < Count; i++) rounded[i] = Number<T>::round(v[i]);
    const uint32_t *u = (const uint32_t *)rounded;
    if constexpr (!Aligned) {
#pragma unroll
        for (int i = 0; i < Count; i++)
            if (here) at[i] = rounded[i];
    } else if constexpr (Count * sizeof(T) == 16)
        asm volatile("{ .reg .pred p; setp.ne.u32 p, %5, 0; @p st.global.cs.v4.b32 [%0], {%1, %2, %3, %4}; }"
                     :: "l"(at), "r"(u[0]), "r"(u[1]), "r"(u[2]), "r"(u[3]), "r"((uint32_t)here));
    else if constexpr (Count * sizeof(T) == 8)
        asm volatile("{ .reg .pred p; setp.ne.u32 p, %3, 0; @p st.global.cs.v2.b32 [%0], {%1, %2}; }"
                     :: "l"(at), "r"(u[0]), "r"(u[1]), "r"((uint32_t)here));
    else
        asm volatile("{ .reg .pred p; setp.ne.u32 p, %2, 0; @p st.global.cs.b32 [%0], %1; }"
                     :: "l"(at), "r"(u[0]), "r"((uint32_t)here));
}

// A residual whose strides are not those of y, one by one: of row n of the slice.
template <class T, bool ChannelsLast>
__device__ __noinline__ float nonoverlap90_residual(const Nonoverlap90Problem &p, const Entry<float> &e, int position,
                                                    int slice, int n)
{
    Nonoverlap90Row r = nonoverlap90_row<ChannelsLast>(p, slice, n);
    Where at = nonoverlap90_output(p, position);
    at.oc = r.oc;  at.od += r.kd;  at.oh += r.kh;  at.ow += r.kw;
    return Number<T>::widen(((const T *)e.residual)[offset_of(at, e.stride)]);
}

// A thread's sums of one piece: scale[r] and the line's inverse undo the scales of position r and of the row. sum[4j +
// 2r + e] is column 8j + 2q + e of position r. Kind: 0 channels last, else the kernel along W.
template <class T, int N, bool ChannelsLast, int Lists, bool Early> struct Nonoverlap90Finish {
    const Nonoverlap90Problem &p;
    const List<T> &list;
    const Nonoverlap90Line *lines;
    const void *heads;
    Nonoverlap90Line near[N / 8];   // the thread's lines of a piece, where they are every fourth: kernel 2 or 4 along W
    int slice, position[2];
    int64_t at[2];      // of the thread's two positions in y, tap 0, channel 0; they are stored where here[] says so
    bool here[2];

    static __device__ __forceinline__ Nonoverlap90Line load(const Nonoverlap90Line *line)
    {
        uint4 u = *(const uint4 *)line;
        return {(int)u.x, __uint_as_float(u.y), __uint_as_float(u.z), {(int)u.w}};
    }

    // The line of sum[i], from the thread's first of the piece.
    template <int Kind> static __device__ __forceinline__ constexpr int line_of(int i)
    {
        return Kind == 0 ? i / 8 * 16 + i % 8 / 4 * 2 + i % 2 : Kind == 4 ? i / 8 * 4 : Kind == 2 ? i / 4 * 4
                                                                                         : i / 4 * 8 + i % 2;
    }

    // The output of sum[i] in its line.
    template <int Kind> static __device__ __forceinline__ constexpr int tap_of(int i)
    {
        return Kind == 4 ? i % 8 / 4 * 2 + i % 2 : Kind == 2 ? i % 2 : 0;
    }

    // Loads what store() wants of a piece, early: between the stores these loads would queue behind them.
    __device__ __forceinline__ void ask_lines(int piece)
    {
        if (ChannelsLast || !Early) return;
        const Nonoverlap90Line *line = lines + piece * (N >> p.kernel[2] / 2) + threadIdx.x % 4;
        const Nonoverlap90Line *late = line - (p.kernel[2] == 4 ? N / 4 : 0);       // four taps: half as many lines
#pragma unroll
        for (int i = 0; i < N / 8; i++) near[i] = load((i < N / 16 ? line : late) + 4 * i);
    }

    // The line of sum[i].
    template <int Kind> __device__ __forceinline__ Nonoverlap90Line line_at(const Nonoverlap90Line *line, int i) const
    {
        if constexpr (Early && (Kind == 2 || Kind == 4)) return near[line_of<Kind>(i) / 4];
        else return load(line + line_of<Kind>(i));
    }

    // The one place where finished sums become values of y.
    __device__ __forceinline__ void store(float (&sum)[N / 2], const float (&scale)[2], int piece) const
    {
        int q = threadIdx.x % 4;
        if (ChannelsLast) store_kind<0>(sum, scale, piece, lines + piece * N + q * 4);
        else if (p.kernel[2] == 4) store_kind<4>(sum, scale, piece, lines + piece * (N / 4) + q);
        else if (p.kernel[2] == 2) store_kind<2>(sum, scale, piece, lines + piece * (N / 2) + q);
        else store_kind<1>(sum, scale, piece, lines + piece * N + q * 2);
    }

    template <int Kind>
    __device__ __forceinline__ void store_kind(float (&sum)[N / 2], const float (&scale)[2], int piece,
                                               const Nonoverlap90Line *line) const
    {
        if constexpr (Lists == WHOLE_LIST) {
            const bool wide = sizeof(T) == 2 && p.wide;
#pragma unroll
            for (int i = 0; i < N / 2; i++) {
                Nonoverlap90Line l = line_at<Kind>(line, i);
                sum[i] = fmaf(sum[i], scale[i / 2 % 2] * l.inverse, l.bias);
            }
            if (list.head.entries > 0)
#pragma unroll
                for (int i = 0; i < N / 2; i++) {
                    Nonoverlap90Head head = ((const Nonoverlap90Head *)heads)[line - lines + line_of<Kind>(i)];
                    sum[i] = fmaf(sum[i], head.factor, head.term);
                }
            if (list.count > list.head.entries) apply<Kind>(sum, piece, line);
            if (wide && p.aligned) put<Kind, true, FINISHED, float>(sum, scale, line);
            else if (wide) put<Kind, false, FINISHED, float>(sum, scale, line);
            else if (p.aligned) put<Kind, true, FINISHED, T>(sum, scale, line);
            else put<Kind, false, FINISHED, T>(sum, scale, line);
        } else if constexpr (Lists == LIGHT_LIST) {
            if (!p.aligned) put<Kind, false, ANY_LIGHT, T>(sum, scale, line);
            else if (p.function == CONVT3D_OP_SILU) put<Kind, true, WITH_SILU, T>(sum, scale, line);
            else if (p.function == CONVT3D_OP_LEAKY_RELU) put<Kind, true, LEAKY, T>(sum, scale, line);
            else put<Kind, true, BOUNDED, T>(sum, scale, line);
        } else if (p.aligned) put<Kind, true, PLAIN, T>(sum, scale, line);
        else put<Kind, false, PLAIN, T>(sum, scale, line);
    }

    template <int Kind>
    __device__ __forceinline__ void apply(float (&sum)[N / 2], int piece, const Nonoverlap90Line *line) const
    {
        const int n = piece * N + (int)(threadIdx.x % 4) * 2;
        apply_in_registers(list, list.head.entries, reinterpret_cast<float (&)[N / 16][8]>(sum),
                           [&](int i) { return load(line + line_of<Kind>(i)).oc; },
                           [&](const Entry<float> &e, int g, float (&r)[8]) {
            if (!e.like_y) {
                for (int i = 0; i < 8; i++) {
                    bool exists = here[i / 2 % 2] && load(line + g * line_of<Kind>(8) + line_of<Kind>(i)).offset >= 0;
                    r[i] = exists ? nonoverlap90_residual<T, ChannelsLast>(p, e, position[i / 2 % 2], slice,
                                                                           n + g * 16 + i / 4 * 8 + i % 2) : 0;
                }
            } else if (p.aligned && e.aligned) residual_in_vectors<Kind>(e, line + g * line_of<Kind>(8), r);
            else
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    const int64_t offset = load(line + g * line_of<Kind>(8) + line_of<Kind>(i)).offset;
                    T v = Number<T>::round(0);
                    if (here[i / 2 % 2] && offset >= 0)
                        v = ((const T *)e.residual)[at[i / 2 % 2] + offset + tap_of<Kind>(i)];
                    r[i] = Number<T>::widen(v);
                }
        });
    }

    // Asks for what apply() will read of a residual that lies as y does.
    __device__ __forceinline__ void ask_residual(int piece) const
    {
        const Entry<float> &e = list.entry[list.residual];
        if (ChannelsLast || !e.like_y || !here[0]) return;
        const Nonoverlap90Line *line = lines + piece * (N / p.kernel[2]) + threadIdx.x % 4;
        for (int i = 0; i < N / p.kernel[2]; i += 4)
            if (line[i].offset >= 0) ask_early((const T *)e.residual + at[0] + line[i].offset);
    }

    // Of eight sums, as they are stored: in neighbours.
    template <int Kind>
    __device__ __forceinline__ void residual_in_vectors(const Entry<float> &e, const Nonoverlap90Line *line,
                                                        float (&r)[8]) const
    {
        constexpr int count = Kind == 1 ? 2 : 4;
#pragma unroll
        for (int i = 0; i < 8; i += count) {
            // The first and the step of the sums that lie side by side.
            const int which = Kind == 2 ? 0 : Kind == 1 ? 0 : i / 4;
            const int first = Kind == 2 ? i : Kind == 1 ? i / 4 * 4 + i / 2 % 2 : i / 4 * 2;
            const int offset = load(line + line_of<Kind>(first)).offset;
            float v[count] = {};
            if (here[which] && offset >= 0) residual_vectors<T>(e.residual, at[which] + offset, v);
#pragma unroll
            for (int j = 0; j < count; j++)
                r[first + (Kind == 2 ? j : Kind == 1 ? j * 2 : j / 2 * 4 + j % 2)] = v[j];
        }
    }

    // What is done to sums on the way: nothing where they are values; scales and bias; a light list besides.
    enum How { FINISHED, PLAIN, BOUNDED, LEAKY, WITH_SILU, ANY_LIGHT };

    template <How What> __device__ __forceinline__ float value(float sum, float scale, const Nonoverlap90Line &l,
                                                               float term) const
    {
        if (What == FINISHED) return sum;
        float v = fmaf(sum, scale * l.inverse, l.bias);
        if (What == PLAIN) return v;
        v = fmaf(v, l.factor, term);
        if (What == WITH_SILU || (What == ANY_LIGHT && p.function == CONVT3D_OP_SILU))
            return function_of(CONVT3D_OP_SILU, 0.0f, 0.0f, v);
        if (What == LEAKY || (What == ANY_LIGHT && p.function == CONVT3D_OP_LEAKY_RELU)) return max_nan(v, p.slope * v);
        return min_nan(max_nan(v, p.least), p.most);
    }

    // Of a light list, for line i from the slice's first.
    template <How What> __device__ __forceinline__ float term(const Nonoverlap90Line *line) const
    {
        return What == FINISHED || What == PLAIN ? 0 : ((const float *)heads)[line - lines];
    }

    template <int Kind, bool Aligned, How What, class Out>
    __device__ __forceinline__ void put(const float (&sum)[N / 2], const float (&scale)[2],
                                        const Nonoverlap90Line *line) const
    {
        Out *const y[2] = {(Out *)p.y + at[0], (Out *)p.y + at[1]};
        if constexpr (Kind == 0 || Kind == 4) {         // four neighbours: taps of a line, or channels
#pragma unroll
            for (int j = 0; j < N / 16; j++) {
                float v[2][4];
                Nonoverlap90Line l = line_at<Kind>(line, 8 * j);
                float term = this->term<What>(line + line_of<Kind>(8 * j));
                const int offset = l.offset;
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    if (Kind == 0 && e > 0) l = load(line + j * 16 + e), term = this->term<What>(line + j * 16 + e);
#pragma unroll
                    for (int r = 0; r < 2; r++)
                        v[r][e] = value<What>(sum[8 * j + e / 2 * 4 + 2 * r + e % 2], scale[r], l, term);
                }
                if constexpr (sizeof(Out) == 2 && Kind == 4 && Aligned)
                    nonoverlap90_store<Out, 8, true>(y[0] + offset, v[0], here[0] && offset >= 0);
                else
#pragma unroll
                    for (int r = 0; r < 2; r++)
                        nonoverlap90_store<Out, 4, Aligned>(y[r] + offset, v[r], here[r] && offset >= 0);
            }
        } else {    // Kind taps of two positions, which are neighbours where all is aligned
#pragma unroll
            for (int j = 0; j < N / 8 * (Kind == 1 ? 2 : 1); j++) {
                const int i = Kind == 1 ? j / 2 * 4 + j % 2 : 4 * j;
                Nonoverlap90Line l = line_at<Kind>(line, i);
                const float term = this->term<What>(line + line_of<Kind>(i));
                float v[2 * Kind];
#pragma unroll
                for (int k = 0; k < 2 * Kind; k++) {
                    const int which = Kind == 2 ? i + k : i + 2 * k;
                    v[k] = value<What>(sum[which], scale[which / 2 % 2], l, term);
                }
                if (Aligned) nonoverlap90_store<Out, 2 * Kind, true>(y[0] + l.offset, v, here[0] && l.offset >= 0);
                else {
                    nonoverlap90_store<Out, Kind, false>(y[0] + l.offset, v, here[0] && l.offset >= 0);
                    nonoverlap90_store<Out, Kind, false>(y[1] + l.offset, v + Kind, here[1] && l.offset >= 0);
                }
            }
        }
    }
};

// What halves cannot hold, by f32 FMA in the order of the channels, in rows begin ... end of the slice: all of them for
// wide positions, wide rows for all. `wide`: bits of the warp's 16 positions. A lane takes a row.
template <bool ChannelsLast>
__device__ __noinline__ void nonoverlap90_repair(const Nonoverlap90Problem &p, const List<float> &list,
                                                 const uint32_t *magnitudes, int slice, int tile, uint32_t wide,
                                                 int begin, int end, bool any_row, bool narrow)
{
    int warp = threadIdx.x / 32 % 4;
    for (int i = 0; i < 16; i++) {
        int position = nonoverlap90_place(p, tile, warp, i);
        Nonoverlap90Offsets at = nonoverlap90_position(p, position);
        bool all = wide >> i & 1;
        if (at.x < 0 || !(all || any_row)) continue;
        for (int n = begin + (int)(threadIdx.x % 32); n < end; n += 32) {
            Nonoverlap90Row r = nonoverlap90_row<ChannelsLast>(p, slice, n);
            if (r.column < 0 || !(all || nonoverlap90_wide_line<ChannelsLast>(p, magnitudes, r.line, narrow))) continue;
            const float *x = (const float *)p.x + at.x, *w = (const float *)p.w + r.column;
            float v = 0;
#pragma unroll 8
            for (int ic = 0; ic < p.in_channels; ic++)
                v = fmaf(__ldg(x + ic * p.x_stride[1]), __ldg(w + (int64_t)ic * p.columns), v);
            if (p.bias) v += ((const float *)p.bias)[r.oc];
            if (list.count > 0) {
                Where output = nonoverlap90_output(p, position);
                output.oc = r.oc;  output.od += r.kd;  output.oh += r.kh;  output.ow += r.kw;
                list_in_memory(list, &v, 1, 1, output);
            }
            ((float *)p.y)[at.y + nonoverlap90_offset<ChannelsLast>(p, r)] = v;
        }
    }
}

}

#endif
