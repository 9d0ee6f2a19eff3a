# The headers of ONNX Runtime; the library itself is loaded at run time. Defines OnnxRuntime::Headers.
find_path(OnnxRuntimeHeaders_INCLUDE_DIR onnxruntime/onnxruntime_cxx_api.h)
mark_as_advanced(OnnxRuntimeHeaders_INCLUDE_DIR)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntimeHeaders REQUIRED_VARS OnnxRuntimeHeaders_INCLUDE_DIR)

if(OnnxRuntimeHeaders_FOUND AND NOT TARGET OnnxRuntime::Headers)
    add_library(OnnxRuntime::Headers INTERFACE IMPORTED)
    set_target_properties(OnnxRuntime::Headers PROPERTIES
        INTERFACE_INCLUDE_DIRECTORIES "${OnnxRuntimeHeaders_INCLUDE_DIR}/onnxruntime")
endif()
