#include "timings.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace flextron
{

double percentile(std::vector<double> values, double percent)
{
    if (values.empty())
    {
        return std::numeric_limits<double>::quiet_NaN();
    }
    std::sort(values.begin(), values.end());
    auto const at = percent / 100 * static_cast<double>(values.size() - 1);
    auto const below = static_cast<std::size_t>(at);
    auto const above = std::min(below + 1, values.size() - 1);
    return std::lerp(values[below], values[above], at - std::floor(at));
}

} // namespace flextron
