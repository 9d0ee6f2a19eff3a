#include "sampling.h"

#include "error.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

namespace flextron
{

namespace
{

struct Choice
{
    std::int64_t token{};
    double odds{}; //!< compared with the likeliest
};

//! The k likeliest, those as likely as the k-th too; in the order of the vocabulary.
std::vector<Choice> likeliest(std::span<float const> logits, std::int64_t topK)
{
    auto least = -std::numeric_limits<float>::infinity();
    if (topK > 0 && static_cast<std::uint64_t>(topK) < logits.size())
    {
        std::vector<float> values(logits.begin(), logits.end());
        auto const last = values.begin() + (topK - 1);
        std::nth_element(values.begin(), last, values.end(), std::greater{});
        least = *last;
    }
    std::vector<Choice> found;
    for (std::size_t token = 0; token < logits.size(); ++token)
    {
        if (logits[token] >= least)
        {
            found.push_back({static_cast<std::int64_t>(token), static_cast<double>(logits[token])});
        }
    }
    return found;
}

//! Leaves the fewest largest odds whose share is at least topP, of equal ones the first, in the order of the vocabulary.
void keepNucleus(std::vector<Choice>& choices, double topP)
{
    double total = 0;
    for (auto const& choice : choices)
    {
        total += choice.odds;
    }
    // Those removed here are together at most what top-p may leave out; the few others are all that is sorted.
    auto const floor = (1 - topP) * total / static_cast<double>(choices.size());
    std::vector<double> values; // alone they sort several times faster than with their tokens
    values.reserve(choices.size());
    for (auto const& choice : choices)
    {
        if (choice.odds > floor)
        {
            values.push_back(choice.odds);
        }
    }
    std::sort(values.begin(), values.end(), std::greater{});
    double sum = 0;
    auto const reaches = [&sum, wanted = topP * total](double odds) { return (sum += odds) >= wanted; };
    auto last = std::find_if(values.begin(), values.end(), reaches);
    last -= last == values.end() ? 1 : 0;
    auto const least = *last;
    // Of those that are as likely as the last, the first in the vocabulary stay.
    auto equal = last - std::find(values.begin(), last, least) + 1;
    std::erase_if(choices,
        [least, &equal](Choice const& choice)
        { return choice.odds < least || (choice.odds == least && equal-- <= 0); });
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
    if (!(minP >= 0 && minP <= 1))
    {
        found.push_back("min-p " + std::to_string(minP) + " is not in [0, 1]");
    }
    if (!(repetitionPenalty > 0) || std::isinf(repetitionPenalty))
    {
        found.push_back("repetition penalty " + std::to_string(repetitionPenalty) + " is not above 0");
    }
    throwIfAny(FLEXTRON_INPUT_ERROR, "these sampling settings cannot be used", found);
}

std::int64_t Sampling::choose(
    std::span<float const> logits, Random& random, std::set<std::int64_t> const& seen) const
{
    std::vector<float> penalised;
    if (repetitionPenalty != 1 && !seen.empty())
    {
        penalised.assign(logits.begin(), logits.end());
        auto const penalty = static_cast<float>(repetitionPenalty);
        for (auto const token : seen)
        {
            auto& logit = penalised[static_cast<std::size_t>(token)];
            logit = logit < 0 ? logit * penalty : logit / penalty;
        }
        logits = penalised;
    }
    auto const best = std::max_element(logits.begin(), logits.end());
    if (!std::isfinite(*best) || std::any_of(logits.begin(), logits.end(), [](float value) { return std::isnan(value); }))
    {
        // Sorting has no answer for them, and the likeliest of them means nothing.
        throw Error(FLEXTRON_TARGET_ERROR, "The model computed logits that are not numbers.",
            "a damaged graph or weights file, or a precision too low for the model",
            "flextron-export verify BUNDLE");
    }
    if (temperature == 0 || topK == 1)
    {
        return best - logits.begin();
    }
    auto choices = likeliest(logits, topK);
    for (auto& choice : choices)
    {
        choice.odds = std::exp((choice.odds - static_cast<double>(*best)) / temperature);
    }
    if (topP < 1)
    {
        keepNucleus(choices, topP);
    }
    if (minP > 0)
    {
        std::erase_if(choices, [least = minP](Choice const& choice) { return choice.odds < least; });
    }
    // Drawn in the order of the vocabulary: what the filters keep is a set.
    double total = 0;
    for (auto& choice : choices)
    {
        total += choice.odds;
        choice.odds = total; // from here on cumulative
    }
    auto const drawn = random.uniform() * total;
    auto const picked = std::find_if(
        choices.begin(), choices.end() - 1, [drawn](Choice const& choice) { return choice.odds > drawn; });
    return picked->token;
}

} // namespace flextron
