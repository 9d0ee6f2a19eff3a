//! The targets `tensorrt` and `tensorrt-rtx`: finds out whether an engine may run here, then runs it.
#pragma once

#include "backend.h"

#include <memory>
#include <string>

namespace flextron
{

class TensorRtBackend final : public Backend
{
public:
    //! Nothing of TensorRT is loaded yet.
    TensorRtBackend(std::string target, std::string library);

    [[nodiscard]] Setup preferred() const override;
    [[nodiscard]] Json libraries() const override;

    //! Throws an Error of kind FLEXTRON_TARGET_ERROR if there is no GPU.
    [[nodiscard]] Json device() const override;

    [[nodiscard]] std::unique_ptr<Session> open(Bundle const& bundle, Setup const& setup) override;

private:
    std::string mTarget;
    std::string mLibrary;
};

} // namespace flextron
