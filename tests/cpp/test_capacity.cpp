#include "capacity.h"

#include <doctest/doctest.h>
#include <limits>
#include <set>
#include <vector>

using flextron::capacityFor;

TEST_CASE("capacities grow in steps up to the maximum")
{
    std::set<std::int64_t> steps;
    for (std::int64_t tokens = 0; tokens <= 2048; ++tokens)
    {
        auto const capacity = capacityFor(tokens);
        CHECK(capacity >= tokens);
        steps.insert(capacity);
    }
    CHECK(steps == std::set<std::int64_t>{64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048});
    CHECK(capacityFor(130, 150) == 150);
    CHECK(capacityFor(1, 10) == 10);
}

TEST_CASE("absurd lengths do not overflow")
{
    CHECK(capacityFor(std::numeric_limits<std::int64_t>::max()) > 0);
    CHECK(capacityFor(std::numeric_limits<std::int64_t>::min()) == 64);
}
