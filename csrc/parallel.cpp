#include "parallel.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace hypersign {
namespace {

// One call of parallel_for. Threads take the next chunk until none is left.
struct Job {
    const std::function<void(int64_t, int64_t)> *work;
    int64_t tiles, chunk;
    std::atomic<int64_t> next{0};
    std::atomic<int> seats;  // helpers that may still join
    std::mutex mutex;
    std::condition_variable idle;
    int inside = 0;  // helpers at work; guarded by mutex

    void run() {
        for (int64_t first; (first = next.fetch_add(chunk)) < tiles;) (*work)(first, std::min(first + chunk, tiles));
    }
};

// Threads that wait for jobs, started when first needed and kept: starting one takes longer than a small layer.
class Pool {
   public:
    // Never destroyed: threads of the pool may still wait when the process ends.
    static Pool &instance() {
        static Pool *pool = new Pool;
        return *pool;
    }

    void run(Job &job, int helpers) {
        {
            std::lock_guard lock(mutex_);
            while (threads_ < helpers) {
                std::thread([this] { loop(); }).detach();
                ++threads_;
            }
            jobs_.push_back(&job);
        }
        wake_.notify_all();
        job.run();
        {
            std::lock_guard lock(mutex_);  // from here on no helper can join
            jobs_.erase(std::find(jobs_.begin(), jobs_.end(), &job));
        }
        std::unique_lock lock(job.mutex);
        job.idle.wait(lock, [&] { return job.inside == 0; });
    }

   private:
    void loop() {
        for (;;) {
            Job *job = nullptr;
            {
                std::unique_lock lock(mutex_);
                wake_.wait(lock, [&] { return (job = joinable()) != nullptr; });
                --job->seats;
                std::lock_guard inside(job->mutex);
                ++job->inside;
            }
            job->run();
            std::lock_guard lock(job->mutex);
            if (--job->inside == 0) job->idle.notify_all();
        }
    }

    Job *joinable() {
        for (Job *job : jobs_)
            if (job->seats > 0 && job->next < job->tiles) return job;
        return nullptr;
    }

    std::mutex mutex_;
    std::condition_variable wake_;
    std::vector<Job *> jobs_;
    int threads_ = 0;
};

}  // namespace

void parallel_for(int64_t tiles, int threads, const std::function<void(int64_t, int64_t)> &work) {
    if (tiles <= 0) return;
    const int helpers = static_cast<int>(std::min<int64_t>(threads, tiles)) - 1;
    if (helpers <= 0) {
        work(0, tiles);
        return;
    }
    Job job;
    job.work = &work;
    job.tiles = tiles;
    job.chunk = std::max<int64_t>(1, tiles / (4 * (helpers + 1)));
    job.seats = helpers;
    Pool::instance().run(job, helpers);
}

}  // namespace hypersign
