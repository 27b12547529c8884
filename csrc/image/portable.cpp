#include "image/image.hpp"

namespace hypersign {
namespace {

void image_row(const ImageRow &row) {
    const int64_t blocks = ceil_div(row.filters, kImageLanes);
    for (int64_t pixel = 0; pixel < row.pixels; ++pixel) {
        const uint8_t *patch = row.patches + pixel * row.fours * kImageTaps;
        const int8_t *weights = row.weights;
        for (int64_t block = 0; block < blocks; ++block) {
            int32_t sums[kImageLanes];
            for (int64_t i = 0; i < kImageLanes; ++i) sums[i] = row.start[pixel][block * kImageLanes + i];
            for (int64_t four = 0; four < row.fours; ++four, weights += kImageLanes * kImageTaps)
                for (int64_t i = 0; i < kImageLanes; ++i)
                    for (int64_t tap = 0; tap < kImageTaps; ++tap)
                        sums[i] += patch[four * kImageTaps + tap] * weights[i * kImageTaps + tap];
            image_epilogue(row, pixel, block, sums);
        }
    }
}

}  // namespace

const ImageKernels image_portable{image_row};

void channels_last(const uint8_t *x, int64_t images, int64_t channels, int64_t pixels, uint8_t *y) {
    for (int64_t image = 0; image < images; ++image, x += channels * pixels, y += channels * pixels) {
        if (channels == 3) {
            for (int64_t p = 0; p < pixels; ++p) {
                y[3 * p] = x[p];
                y[3 * p + 1] = x[pixels + p];
                y[3 * p + 2] = x[2 * pixels + p];
            }
            continue;
        }
        for (int64_t c = 0; c < channels; ++c)
            for (int64_t p = 0; p < pixels; ++p) y[p * channels + c] = x[c * pixels + p];
    }
}

}  // namespace hypersign
