// Where patches stand: learned positions for any grid, and rotary tables.
#pragma once

#include <stdint.h>

#include <vector>

namespace edgekit {

struct Grid {
    int rows = 0, columns = 0;
    bool operator==(const Grid&) const = default;
    int64_t patches() const { return int64_t(rows) * columns; }
};

// The ways in which learned positions are resized in the field, as edgekit.models.config names them.
enum class Interpolation { offset, antialias, size };

// table (from.patches(), width) -> out (to.patches(), width): bicubic, as torch.nn.functional.interpolate computes it.
void resample_positions(const float* table, Grid from, int width, Interpolation interpolation, Grid to, float* out);

// cos and sin (grid.patches(), dim / 2) of DINOv3, see edgekit/models/rope.py. periods (dim / 4).
void rotary_tables(const std::vector<double>& periods, Grid grid, float* cos, float* sin);
std::vector<double> rotary_periods(double base, int dim, bool bfloat16);

}  // namespace edgekit
