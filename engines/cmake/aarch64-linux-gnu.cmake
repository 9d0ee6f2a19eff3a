# Cross-compiling for 64-bit Arm Linux, such as a Jetson, with Debian's or Ubuntu's g++-aarch64-linux-gnu. What OpenSSL
# and headers are found must be the target's own: FLEXTRON_SYSROOT is a copy of its file system, or of the packages
# libssl-dev:arm64 and libssl3:arm64 unpacked (docs/jetson.md).
#
#   cmake -S engines -B build/aarch64 --toolchain engines/cmake/aarch64-linux-gnu.cmake -DFLEXTRON_SYSROOT=DIRECTORY
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)

set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

set(FLEXTRON_SYSROOT "" CACHE PATH "The target's file system, or its packages unpacked")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES FLEXTRON_SYSROOT)
if(FLEXTRON_SYSROOT)
    list(APPEND CMAKE_PREFIX_PATH "${FLEXTRON_SYSROOT}/usr")
    # Debian keeps what depends on the architecture in a directory of its own, which the compiler does not know of.
    foreach(language C CXX)
        set(CMAKE_${language}_FLAGS_INIT "-isystem ${FLEXTRON_SYSROOT}/usr/include/aarch64-linux-gnu")
    endforeach()
endif()
