/* Promise: random small problems are what the oracle says. Seed and count: arguments, or CONVT3D_SEED and
 * CONVT3D_COUNT. */
#include "common.h"

static uint64_t number(int argc, char **argv, int i, const char *name, uint64_t otherwise)
{
    const char *text = i < argc ? argv[i] : getenv(name);
    return text ? (uint64_t)strtoull(text, NULL, 0) : otherwise;
}

int main(int argc, char **argv)
{
    uint64_t seed = number(argc, argv, 1, "CONVT3D_SEED", 1), count = number(argc, argv, 2, "CONVT3D_COUNT", 2000), i;
    uint64_t failed = 0, in_block = 0;
    for (i = 0; i < count; i++) {
        check_request request;
        uint64_t h = oracle_hash(seed, i);
        memset(&request, 0, sizeof request);
        request.seed = h >> 16;
        request.desc = shapes_random(request.seed);
        request.desc.dtype = (int32_t)(h % 4);
        request.desc.layout = (int32_t)(h / 4 % 2);
        request.desc.threads = (int32_t)(h / 8 % 4);
        request.exact = (int)(h / 32 % 2);
        failed += !common_check(&request);
        if (++in_block == 100 || i + 1 == count) {
            tap_ok(failed == 0, "seed %llu, problems up to %llu", (unsigned long long)seed,
                   (unsigned long long)(i + 1));
            in_block = failed = 0;
        }
    }
    return tap_done();
}
