/* Opens a bundle at a latency target and prints the tokens that follow a prompt: generate BUNDLE TARGET ID... */
#include <flextron/flextron.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static int print(int64_t token, void* user)
{
    (void)user;
    return printf("%" PRId64 "\n", token) < 0; /* nonzero stops */
}

int main(int count, char** words)
{
    if (count < 4 || count > 4 + 512)
    {
        fprintf(stderr, "usage: generate BUNDLE TARGET ID...   (TARGET such as 20ms, or - for the widest budget)\n");
        return FLEXTRON_INPUT_ERROR;
    }
    int64_t prompt[513];
    for (int i = 3; i < count; ++i)
    {
        prompt[i - 3] = strtoll(words[i], NULL, 10);
    }
    FlextronOptions options;
    flextronDefaultOptions(&options);
    options.latencyTarget = words[2][0] == '-' ? NULL : words[2];
    FlextronGeneration generation;
    flextronDefaultGeneration(&generation);
    generation.maxNewTokens = 8;

    FlextronRunner* runner = NULL;
    FlextronStatus status = flextronOpen(words[1], &options, &runner);
    if (status == FLEXTRON_OK)
    {
        status = flextronGenerate(runner, prompt, (size_t)(count - 3), &generation, print, NULL, NULL);
    }
    if (status != FLEXTRON_OK)
    {
        fprintf(stderr, "error: %s\n", flextronLastError());
    }
    flextronClose(runner);
    return (int)status;
}
