/*! \file
 *  Runs elastic bundles: opens one, picks the budget that meets a latency target on this device, generates tokens.
 *
 *  Every function returns a status. After any but FLEXTRON_OK, flextronLastError() says what happened, the likely cause
 *  and the next step. No exception leaves the library. One runner serves one thread at a time; different runners are
 *  independent.
 */
#ifndef FLEXTRON_FLEXTRON_H
#define FLEXTRON_FLEXTRON_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define FLEXTRON_API __attribute__((visibility("default")))
#else
#define FLEXTRON_API
#endif

#ifdef __cplusplus
extern "C"
{
#endif

/*! What a call came to. The values are also the exit codes of the commands. */
typedef enum FlextronStatus
{
    FLEXTRON_OK = 0,
    FLEXTRON_ERROR = 1,              /*!< of no other kind, or unexpected */
    FLEXTRON_INPUT_ERROR = 3,        /*!< something that was passed cannot be used */
    FLEXTRON_BUNDLE_ERROR = 6,       /*!< the bundle is missing, damaged, altered, too new, or lacks what was asked */
    FLEXTRON_NO_BUDGET_FITS = 8,     /*!< no budget meets the latency target on this device */
    FLEXTRON_MISSING_DEPENDENCY = 9, /*!< a library cannot be loaded; the message names the paths that were tried */
    FLEXTRON_TARGET_ERROR = 10       /*!< the backend refuses the bundle */
} FlextronStatus;

/*! What to do for measurements that a latency target needs. */
typedef enum FlextronCalibrationMode
{
    FLEXTRON_CALIBRATE_AUTO = 0, /*!< measure if this device has no table yet; takes some seconds, once */
    FLEXTRON_CALIBRATE_NEVER = 1, /*!< fail */
    FLEXTRON_CALIBRATE_ALWAYS = 2 /*!< measure in any case */
} FlextronCalibrationMode;

/*! An opened bundle, loaded at one budget. */
typedef struct FlextronRunner FlextronRunner;

/*! How to open a bundle. Fill it with flextronDefaultOptions() and change what you need; strings may be NULL. */
typedef struct FlextronOptions
{
    size_t structSize;         /*!< sizeof(FlextronOptions) of the caller, set by flextronDefaultOptions() */
    char const* latencyTarget; /*!< "20ms" per token, "300ms@128" to the first token, "512MB", several with commas */
    char const* budget;        /*!< run this budget, whatever it costs; excludes a latency target */
    char const* layout;        /*!< "panels", "shared" or "per-budget"; default: panels, on TensorRT shared */
    char const* dtype;         /*!< "fp32", "fp16", "int8" or "int4"; default: fp32, on TensorRT fp16 */
    char const* latencyTable;  /*!< file to select by; default: the bundle's table of this device */
    char const* onnxruntime;   /*!< the ONNX Runtime library; default: $FLEXTRON_ONNXRUNTIME, then the system's */
    int32_t threads;           /*!< 0: one per core that this process may use */
    int32_t chunk;             /*!< tokens per prefill call */
    int64_t context;           /*!< tokens at which the target must hold; 0: the longest that was measured */
    int32_t bestEffort;        /*!< nonzero: if nothing meets the target, take what comes closest */
    int32_t lowMemory;         /*!< nonzero: leave the weights in the mapped file; slower */
    int32_t skipHashes;        /*!< nonzero: check only sizes of the bundle's files */
    int32_t calibration;       /*!< a FlextronCalibrationMode; default: FLEXTRON_CALIBRATE_AUTO */
    char const* target;        /*!< "onnxruntime-cpu", "tensorrt" or "tensorrt-rtx"; default: onnxruntime-cpu */
    char const* library;       /*!< TensorRT; default: $FLEXTRON_TENSORRT or $FLEXTRON_TENSORRT_RTX, then the system's */
    char const* tokenizers;    /*!< onnxruntime-extensions; default: $FLEXTRON_TOKENIZERS, then the system's */
} FlextronOptions;

/*! Is called after each of the lengths at which budgets are measured. Must not throw or call the runner. */
typedef void (*FlextronProgressCallback)(size_t done, size_t total, void* user);

/*! How to measure. Fill it with flextronDefaultCalibration(). Lengths are cut to what the model holds. */
typedef struct FlextronCalibration
{
    size_t structSize;
    int64_t const* contexts; /*!< lengths at which decode steps are measured; NULL for 64, 256, 1024 */
    size_t contextCount;
    int64_t const* promptLengths; /*!< lengths at which first tokens are measured; NULL for 16, 128, 512 */
    size_t promptLengthCount;
    int64_t repeats;   /*!< decode steps per budget and context; a twelfth, but at least 6, first tokens per length */
    double maxSeconds; /*!< with at least 6 measurements each, stop early to stay near this */
    FlextronProgressCallback progress; /*!< may be NULL */
    void* user;
} FlextronCalibration;

/*! How to generate. Fill it with flextronDefaultGeneration(). */
typedef struct FlextronGeneration
{
    size_t structSize;
    int64_t maxNewTokens;
    double temperature; /*!< 0 takes the likeliest token each time */
    int64_t topK;       /*!< choose among the k likeliest only; 0 for all */
    double topP;        /*!< choose among the likeliest that together have this probability */
    uint64_t seed;      /*!< the same seed, prompt and settings give the same tokens, in Python too */
    int32_t ignoreEos;  /*!< nonzero: go on after an end-of-text token */
    double minP;        /*!< choose among tokens at least this many times as likely as the likeliest */
    double repetitionPenalty; /*!< above 1, tokens that have occurred become less likely */
} FlextronGeneration;

/*! Times of a generation in milliseconds. What the callback takes is not counted. */
typedef struct FlextronTimings
{
    size_t structSize;
    int64_t promptTokens;
    int64_t tokens; /*!< generated, an end-of-text token included */
    double firstTokenMs;
    double p50; /*!< per token after the first; NaN if there were none */
    double p95;
    char const* stoppedBy; /*!< "length", "eos", "context" (the cache is full) or "caller" */
} FlextronTimings;

/*! Receives every token as soon as it is decided; returns nonzero to stop. Must not throw or call the runner. */
typedef int (*FlextronTokenCallback)(int64_t token, void* user);

/*! Receives every token with the text that it makes ready: whole UTF-8 characters only, so it may be empty. A last call
 *  with token -1 brings what is left, if anything is. Returns nonzero to stop. Must not throw or call the runner. */
typedef int (*FlextronTextCallback)(int64_t token, char const* text, void* user);

/*! Message of this thread's last failed call; never NULL, valid until the thread's next call. */
FLEXTRON_API char const* flextronLastError(void);

FLEXTRON_API void flextronDefaultOptions(FlextronOptions* options);
FLEXTRON_API void flextronDefaultGeneration(FlextronGeneration* generation);

FLEXTRON_API void flextronDefaultCalibration(FlextronCalibration* calibration);

/*! Opens and checks a bundle, selects a budget and loads it. Without target and budget the widest one runs. */
FLEXTRON_API FlextronStatus flextronOpen(char const* bundle, FlextronOptions const* options, FlextronRunner** runner);

/*! Releases everything; NULL is allowed. */
FLEXTRON_API void flextronClose(FlextronRunner* runner);

/*! Switches to the budget of that name; the next generation runs at it. */
FLEXTRON_API FlextronStatus flextronUseBudget(FlextronRunner* runner, char const* budget);

/*! Switches to the best budget that meets another latency target. On failure the old budget stays. */
FLEXTRON_API FlextronStatus flextronSelect(FlextronRunner* runner, char const* latencyTarget);

/*! For a bundle with a prompt router, opened with a latency target: selects the budget that the router asks for, for this
 *  prompt, among those that meet the target. Otherwise it changes nothing. flextronGenerate does so by itself; call it
 *  to know beforehand. */
FLEXTRON_API FlextronStatus flextronRoute(FlextronRunner* runner, int64_t const* prompt, size_t promptSize);

/*! Which budget runs and why, as JSON: budget, reason, numbers, met, rejected. Valid until the next such call. */
FLEXTRON_API FlextronStatus flextronSelection(FlextronRunner* runner, char const** json);

/*! The same for people: the reason, and a line for every budget that was rejected. Valid until the next such call. */
FLEXTRON_API FlextronStatus flextronExplanation(FlextronRunner* runner, char const** text);

/*! Measures every budget on this device and keeps the table in the bundle or, if the bundle cannot be written, in the
 *  user's cache directory. Later selections use it; the present one stays.
 *  \param file may be NULL; receives where the table is, "" if only this runner has it. Valid until the next such call.
 */
FLEXTRON_API FlextronStatus flextronCalibrate(
    FlextronRunner* runner, FlextronCalibration const* calibration, char const** file);

/*! What people should know although no call failed, such as measurements taken on a busy machine: lines, "" if there
 *  is nothing. Valid until the next such call. */
FLEXTRON_API FlextronStatus flextronNotes(FlextronRunner* runner, char const** text);

/*! Generates after a prompt of token ids.
 *  \param callback may be NULL.
 *  \param timings may be NULL; set structSize before the call.
 */
FLEXTRON_API FlextronStatus flextronGenerate(FlextronRunner* runner, int64_t const* prompt, size_t promptSize,
    FlextronGeneration const* generation, FlextronTokenCallback callback, void* user, FlextronTimings* timings);

/*! Token ids of a UTF-8 text by the bundle's tokenizer, with a beginning-of-text token if it adds one. Needs the library
 *  onnxruntime-extensions. The ids are valid until the next such call.
 */
FLEXTRON_API FlextronStatus flextronEncode(
    FlextronRunner* runner, char const* text, int64_t const** ids, size_t* count);

/*! Text of token ids, without special tokens. Needs no library. Valid until the next such call. */
FLEXTRON_API FlextronStatus flextronDecode(
    FlextronRunner* runner, int64_t const* ids, size_t count, char const** text);

/*! As flextronGenerate, but the answer is text. The prompt's ids may come from flextronEncode. */
FLEXTRON_API FlextronStatus flextronGenerateText(FlextronRunner* runner, int64_t const* prompt, size_t promptSize,
    FlextronGeneration const* generation, FlextronTextCallback callback, void* user, FlextronTimings* timings);

#ifdef __cplusplus
}
#endif

#endif
