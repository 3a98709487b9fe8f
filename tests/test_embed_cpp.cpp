/* test_embed.c as C++17. */
#include "test_embed.c"
