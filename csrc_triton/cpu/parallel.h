// Loops whose iterations run on several threads.
//
// The threads are those of torch: `GOMP_parallel` of the OpenMP runtime that torch has loaded. So
// one pool serves torch's operators and these kernels, and no two pools spin against each other.

#pragma once

typedef void (*Task)(const void* work, long index);
typedef void (*GompParallel)(void (*)(void*), void*, unsigned threads, unsigned flags);

extern GompParallel gomp_parallel;

typedef struct {
  Task task;
  const void* work;
  long count;
  long next;
} Loop;

static void take_tasks(void* shared) {
  Loop* loop = shared;
  for (;;) {
    long index = __atomic_fetch_add(&loop->next, 1, __ATOMIC_RELAXED);
    if (index >= loop->count) return;
    loop->task(loop->work, index);
  }
}

// Call task(work, 0 ... count - 1), in any order and on any of the threads. Few tasks take as many
// threads as many do: GNU's runtime ends those that a smaller team leaves out, and has to start
// them anew for the next one.
static inline void parallel_for(long count, long threads, Task task, const void* work) {
  Loop loop = {task, work, count, 0};
  if (threads > 1 && count > 1 && gomp_parallel)
    gomp_parallel(take_tasks, &loop, (unsigned)threads, 0);
  else
    take_tasks(&loop);
}
