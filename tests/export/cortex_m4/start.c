/* Starts a program on a Cortex-M4 without an operating system: memory, semihosting, main. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

extern uint32_t data_from[], data_start[], data_end[], zero_start[], zero_end[], stack_top[];
void initialise_monitor_handles(void);
int main(void);

void reset(void);
void reset(void)
{
    memcpy(data_start, data_from, (size_t)((char *)data_end - (char *)data_start));
    memset(zero_start, 0, (size_t)((char *)zero_end - (char *)zero_start));
    initialise_monitor_handles();
    const int status = main();
    fflush(NULL);
    _exit(status);
}

static void stop(void)
{
    _exit(1);
}

__attribute__((section(".vectors"), used)) static void *const vectors[] = {
    stack_top, (void *)reset, (void *)stop, (void *)stop, (void *)stop, (void *)stop, (void *)stop,
};
