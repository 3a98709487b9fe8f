/* The second translation unit of test_embed.c, with a private copy of its own. */
#define EMBED_OTHER
#include "test_embed.c"

float embed_other(void) { return embed_here(); }
