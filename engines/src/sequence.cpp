#include "sequence.h"

#include "capacity.h"

#include <algorithm>

namespace flextron
{

Sequence::Sequence(Session& session, Budget const& budget, std::int64_t maximum, std::int64_t chunk) noexcept
    : mSession(session)
    , mBudget(budget)
    , mMaximum(maximum)
    , mChunk(static_cast<std::size_t>(chunk))
{
}

std::span<float const> Sequence::append(std::span<std::int64_t const> ids)
{
    reserve(mLength + static_cast<std::int64_t>(ids.size()));
    std::span<float const> logits;
    while (!ids.empty())
    {
        auto const part = ids.first(std::min(mChunk, ids.size()));
        logits = mCache->step(part, mLength);
        mLength += static_cast<std::int64_t>(part.size());
        ids = ids.subspan(part.size());
    }
    return logits;
}

void Sequence::reserve(std::int64_t tokens)
{
    if (!mCache)
    {
        mCache = mSession.newCache(mBudget, capacityFor(tokens, mMaximum));
    }
    else if (tokens > mCache->capacity())
    {
        mCache->grow(capacityFor(tokens, mMaximum));
    }
}

} // namespace flextron
