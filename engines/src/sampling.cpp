#include "sampling.h"

#include "error.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace flextron
{

namespace
{

struct Choice
{
    std::int64_t token{};
    double odds{};
};

//! The tokens that may be chosen, likeliest first; of equal ones the smaller first.
std::vector<Choice> choices(std::span<float const> logits, std::int64_t topK)
{
    std::vector<std::int64_t> tokens(logits.size());
    std::iota(tokens.begin(), tokens.end(), 0);
    auto const likelier = [logits](std::int64_t a, std::int64_t b)
    {
        auto const x = logits[static_cast<std::size_t>(a)];
        auto const y = logits[static_cast<std::size_t>(b)];
        return x > y || (x == y && a < b);
    };
    if (topK > 0 && static_cast<std::uint64_t>(topK) < tokens.size())
    {
        std::nth_element(tokens.begin(), tokens.begin() + topK, tokens.end(), likelier);
        tokens.resize(static_cast<std::size_t>(topK));
    }
    std::sort(tokens.begin(), tokens.end(), likelier);
    std::vector<Choice> found(tokens.size());
    std::transform(tokens.begin(), tokens.end(), found.begin(), [logits](std::int64_t token)
        { return Choice{token, static_cast<double>(logits[static_cast<std::size_t>(token)])}; });
    return found;
}

} // namespace

void Sampling::validate() const
{
    std::vector<std::string> found;
    if (!(temperature >= 0) || std::isinf(temperature))
    {
        found.push_back("temperature " + std::to_string(temperature) + " is not 0 or more");
    }
    if (topK < 0)
    {
        found.push_back("top-k " + std::to_string(topK) + " is negative");
    }
    if (!(topP > 0 && topP <= 1))
    {
        found.push_back("top-p " + std::to_string(topP) + " is not in (0, 1]");
    }
    throwIfAny(FLEXTRON_INPUT_ERROR, "these sampling settings cannot be used", found);
}

std::int64_t Sampling::choose(std::span<float const> logits, Random& random) const
{
    if (std::any_of(logits.begin(), logits.end(), [](float value) { return std::isnan(value); }))
    {
        // Sorting has no answer for them, and the likeliest of them means nothing.
        throw Error(FLEXTRON_TARGET_ERROR, "The model computed logits that are not numbers.",
            "a damaged graph or weights file, or a precision too low for the model",
            "flextron-export verify BUNDLE");
    }
    if (temperature == 0 || topK == 1)
    {
        return std::max_element(logits.begin(), logits.end()) - logits.begin();
    }
    auto candidates = choices(logits, topK);
    auto const largest = candidates.front().odds;
    double sum = 0;
    for (auto& candidate : candidates)
    {
        candidate.odds = std::exp((candidate.odds - largest) / temperature);
        sum += candidate.odds;
    }
    double total = 0;
    std::size_t count = 0;
    // With top-p, the tokens up to the one that reaches it.
    while (count < candidates.size())
    {
        auto& candidate = candidates[count++];
        total += candidate.odds / sum;
        candidate.odds = total; // from here on cumulative
        if (topP < 1 && total >= topP)
        {
            break;
        }
    }
    candidates.resize(count);
    auto const drawn = random.uniform() * total;
    auto const picked = std::find_if(
        candidates.begin(), candidates.end() - 1, [drawn](Choice const& candidate) { return candidate.odds > drawn; });
    return picked->token;
}

} // namespace flextron
