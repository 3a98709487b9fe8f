/* Promise: f16 and bf16 convert exactly to double, and from double to nearest, ties to even, in one rounding.
 * Judged by the definition of the formats (oracle.h) over all 65,536 patterns and the points where rounding turns. */
#include "common.h"

static double decode(int32_t dtype, uint16_t bits)
{
    return dtype == CONVT3D_F16 ? convt3d_double_from_f16(bits) : convt3d_double_from_bf16(bits);
}

static uint16_t encode(int32_t dtype, double value)
{
    return dtype == CONVT3D_F16 ? convt3d_f16_from_double(value) : convt3d_bf16_from_double(value);
}

static uint16_t infinity_of(int32_t dtype) { return dtype == CONVT3D_F16 ? 0x7C00 : 0x7F80; }

static void test_patterns(int32_t dtype)
{
    const char *name = common_dtypes[dtype];
    const uint16_t quiet = dtype == CONVT3D_F16 ? 0x0200 : 0x0040;
    int64_t decoded = 0, back = 0, nans = 0, signs = 0, bits;
    for (bits = 0; bits < 65536; bits++) {
        uint16_t b = (uint16_t)bits;
        double value = decode(dtype, b), want = oracle_from_bits16(dtype, b);
        if (isnan(want)) {
            uint16_t e = encode(dtype, value);
            nans += !isnan(value) || (e & 0x7FFF) <= infinity_of(dtype) || !(e & quiet);
        } else {
            decoded += value != want;
            signs += !signbit(value) != !(b & 0x8000);
            back += encode(dtype, value) != b;
        }
    }
    tap_ok(decoded == 0, "%s: every pattern has the value of its definition", name);
    tap_ok(signs == 0, "%s: every sign, that of zero too", name);
    tap_ok(back == 0, "%s: every number converts back to its pattern", name);
    tap_ok(nans == 0, "%s: every NaN stays a NaN and is quiet", name);
}

/* Between each pair of neighbours: the tie goes to the even one, and one double to either side of it does not. A
 * conversion through float would see the tie itself in both cases. */
static void test_ties(int32_t dtype)
{
    int64_t ties = 0, below = 0, above = 0, sign, b;
    for (b = 0; b < infinity_of(dtype); b++) {
        double low = oracle_from_bits16(dtype, (uint16_t)b);
        double high = b + 1 < infinity_of(dtype) ? oracle_from_bits16(dtype, (uint16_t)(b + 1))
                                                 : 2 * low - oracle_from_bits16(dtype, (uint16_t)(b - 1));
        double tie = low + (high - low) / 2;
        for (sign = 0; sign < 2; sign++) {
            double s = sign ? -1.0 : 1.0;
            int64_t bit = sign << 15;
            ties += encode(dtype, s * tie) != (bit | (b + (b & 1)));
            below += encode(dtype, s * nextafter(tie, 0.0)) != (bit | b);
            above += encode(dtype, s * nextafter(tie, INFINITY)) != (bit | (b + 1));
        }
    }
    tap_ok(ties == 0, "%s: ties go to even, the last one to infinity", common_dtypes[dtype]);
    tap_ok(below == 0, "%s: one double below a tie goes down", common_dtypes[dtype]);
    tap_ok(above == 0, "%s: one double above a tie goes up", common_dtypes[dtype]);
}

static void test_extremes(int32_t dtype)
{
    const char *name = common_dtypes[dtype];
    const uint16_t inf = infinity_of(dtype);
    double least = ldexp(1.0, dtype == CONVT3D_F16 ? -24 : -133);
    tap_ok(encode(dtype, INFINITY) == inf && encode(dtype, -INFINITY) == (0x8000 | inf), "%s: infinities", name);
    tap_ok(encode(dtype, DBL_MAX) == inf && encode(dtype, 1e300) == inf, "%s: overflow gives infinity", name);
    tap_ok(encode(dtype, DBL_MIN) == 0 && encode(dtype, ldexp(1.0, -1074)) == 0 && encode(dtype, -1e-300) == 0x8000,
           "%s: underflow gives zero of the same sign", name);
    tap_ok(encode(dtype, least / 2) == 0 && encode(dtype, nextafter(least / 2, 1)) == 1
           && encode(dtype, least * 1.5) == 2 && encode(dtype, least * 2.5) == 2, "%s: ties of subnormals", name);
    tap_ok((encode(dtype, NAN) & 0x7FFF) > inf, "%s: NaN", name);
}

static void test_random(int32_t dtype)
{
    int64_t i, differ = 0;
    for (i = 0; i < 1000000; i++) {
        uint64_t bits = oracle_hash(77, (uint64_t)i);
        double value;
        if (i % 2) {                            /* half of them in the type's own range */
            int spread = dtype == CONVT3D_F16 ? 48 : 280;
            int exponent = 1023 - spread * 3 / 4 + (int)(bits >> 52 & 0x7FF) % spread * 5 / 4;
            bits = (bits & 0x800FFFFFFFFFFFFFu) | (uint64_t)exponent << 52;
        }
        memcpy(&value, &bits, sizeof value);
        differ += isnan(value) ? (encode(dtype, value) & 0x7FFF) <= infinity_of(dtype)
                               : encode(dtype, value) != oracle_to_bits16(dtype, value);
    }
    tap_ok(differ == 0, "%s: a million random doubles", common_dtypes[dtype]);
}

int main(void)
{
    int32_t dtype;
    for (dtype = CONVT3D_F16; dtype <= CONVT3D_BF16; dtype++) {
        test_patterns(dtype);
        test_ties(dtype);
        test_extremes(dtype);
        test_random(dtype);
    }
    return tap_done();
}
