//! Runners of one bundle in several threads, through the C interface: threads BUNDLE ID...
//! Each generates the same tokens and, in between, fails in a way of its own; prints the tokens once.
#include <flextron/flextron.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

namespace
{

constexpr int kThreads = 3;

struct Outcome
{
    std::vector<std::int64_t> tokens;
    std::string problem;
};

int keep(std::int64_t token, void* user)
{
    static_cast<Outcome*>(user)->tokens.push_back(token);
    return 0;
}

void run(char const* bundle, std::vector<std::int64_t> const& prompt, int index, Outcome& outcome)
{
    FlextronOptions options;
    flextronDefaultOptions(&options);
    options.threads = 1;
    FlextronGeneration generation;
    flextronDefaultGeneration(&generation);
    generation.maxNewTokens = 6;
    FlextronRunner* runner = nullptr;
    if (flextronOpen(bundle, &options, &runner) != FLEXTRON_OK)
    {
        outcome.problem = flextronLastError();
        return;
    }
    std::string const wrong = "budget-of-thread-" + std::to_string(index);
    bool const refused = flextronUseBudget(runner, wrong.c_str()) != FLEXTRON_OK;
    std::this_thread::yield(); // others fail now
    if (!refused || std::string(flextronLastError()).find(wrong) == std::string::npos)
    {
        outcome.problem = "the message is not that of this thread's failure";
    }
    else if (flextronGenerate(runner, prompt.data(), prompt.size(), &generation, keep, &outcome, nullptr) != FLEXTRON_OK)
    {
        outcome.problem = flextronLastError();
    }
    flextronClose(runner);
}

} // namespace

int main(int count, char** words)
{
    if (count < 3)
    {
        std::fprintf(stderr, "usage: threads BUNDLE ID...\n");
        return 1;
    }
    std::vector<std::int64_t> prompt;
    for (int i = 2; i < count; ++i)
    {
        prompt.push_back(std::strtoll(words[i], nullptr, 10));
    }
    std::vector<Outcome> outcomes(kThreads);
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i)
    {
        threads.emplace_back(run, words[1], std::cref(prompt), i, std::ref(outcomes[static_cast<std::size_t>(i)]));
    }
    for (auto& thread : threads)
    {
        thread.join();
    }
    for (auto const& outcome : outcomes)
    {
        if (!outcome.problem.empty() || outcome.tokens != outcomes[0].tokens)
        {
            std::fprintf(stderr, "FAILED: %s\n",
                outcome.problem.empty() ? "two threads generated different tokens" : outcome.problem.c_str());
            return 1;
        }
    }
    for (auto const token : outcomes[0].tokens)
    {
        std::printf("%lld\n", static_cast<long long>(token));
    }
    return 0;
}
