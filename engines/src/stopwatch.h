//! Time since it was made.
#pragma once

#include <chrono>

namespace flextron
{

class Stopwatch
{
public:
    [[nodiscard]] double milliseconds() const
    {
        return std::chrono::duration<double, std::milli>(Clock::now() - mStart).count();
    }

private:
    using Clock = std::chrono::steady_clock;
    Clock::time_point mStart = Clock::now();
};

} // namespace flextron
