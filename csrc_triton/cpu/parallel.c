#include "parallel.h"

GompParallel gomp_parallel = 0;

void use_runtime(GompParallel parallel) { gomp_parallel = parallel; }
