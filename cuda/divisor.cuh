// Division by a number that is fixed when the kernel is launched: a multiplication and a shift.
#pragma once

namespace convt3d_cuda {

// Division of 0 <= n < 2^31 by what was fixed on the host: q = (n * magic / 2^32 + n) / 2^shift.
struct FixedDivisor {
    uint32_t divisor, magic, shift;
    __device__ __forceinline__ int quotient(int n) const
    {
        return (int)((__umulhi((uint32_t)n, magic) + (uint32_t)n) >> shift);
    }
};

static inline FixedDivisor fixed_divisor(int64_t d)
{
    FixedDivisor by = {(uint32_t)convt3d__max(d, 1), 0, 0};
    while ((UINT64_C(1) << by.shift) < by.divisor) by.shift++;
    by.magic = (uint32_t)(((((UINT64_C(1) << by.shift) - by.divisor) << 32) / by.divisor) + 1);
    return by;
}

}
