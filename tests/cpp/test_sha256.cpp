#include "sha256.h"
#include "temporary_directory.h"

#include <doctest/doctest.h>
#include <system_error>

TEST_CASE("digests are those of the standard")
{
    CHECK(flextron::sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    TemporaryDirectory const directory;
    // Longer than one block of reading.
    std::string const text(3'000'001, 'x');
    CHECK(flextron::sha256OfFile(directory.write("file", text)) == flextron::sha256(text));
    CHECK_THROWS_AS(static_cast<void>(flextron::sha256OfFile(directory.path() / "none")), std::system_error);
}
