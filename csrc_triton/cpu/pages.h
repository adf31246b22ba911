// How keys and values lie in pages: keys [page][kv_head][head_dim][PAGE], values
// [page][kv_head][PAGE][head_dim]. One vector of keys holds the same number of a page's 16 tokens.

#pragma once

#include "vector.h"

#define PAGE LANES
#define MOST_DIMS 256
