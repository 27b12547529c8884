/* Prints the outputs of all images of images.h, each number as the hexadecimal digits of its bits. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "network.c"
#include "images.h"
int main(void)
{
    for (int i = 0; i < IMAGES; i++) {
        float outputs[OUTPUTS];
        network_run(images[i], outputs);
        for (int k = 0; k < OUTPUTS; k++) {
            uint32_t word;
            memcpy(&word, &outputs[k], 4);
            printf("%08lx ", (unsigned long)word);
        }
        printf("\n");
    }
    return 0;
}
