//! Planes of one byte a pixel: shrinking and enlarging by whole factors, much faster than a general resizer can.

/// Means of `factor` x `factor` blocks, row by row into `out`; at the right and bottom edge a block is what is left of it.
///
/// `from` has rows of `width` bytes. `out` must hold `width / factor` x `height / factor` bytes, both rounded up, and
/// `factor` be from 1 to 256.
pub(super) fn shrink(from: &[u8], width: usize, factor: usize, out: &mut [u8], sums: &mut Vec<u16>) {
    match factor {
        1 => out.copy_from_slice(from),
        2 => blocks::<2>(from, width, out, sums),
        4 => blocks::<4>(from, width, out, sums),
        5 => blocks::<5>(from, width, out, sums),
        _ => blocks_of(factor, from, width, out, sums),
    }
}

/// A known factor lets the inner loop become straight vector code.
fn blocks<const F: usize>(from: &[u8], width: usize, out: &mut [u8], sums: &mut Vec<u16>) {
    blocks_of(F, from, width, out, sums);
}

#[inline(always)]
fn blocks_of(factor: usize, from: &[u8], width: usize, out: &mut [u8], sums: &mut Vec<u16>) {
    let small = width.div_ceil(factor);
    for (rows, out) in from.chunks(width * factor).zip(out.chunks_exact_mut(small)) {
        sums.clear();
        sums.resize(width, 0);
        for row in rows.chunks_exact(width) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += u16::from(*value);
            }
        }
        let count = rows.len() / width;
        let whole = sums.chunks_exact(factor);
        let rest = whole.remainder();
        let scale = reciprocal(factor * count);
        for (out, block) in out.iter_mut().zip(whole) {
            *out = mean(block, scale);
        }
        if let (false, Some(out)) = (rest.is_empty(), out.last_mut()) {
            *out = mean(rest, reciprocal(rest.len() * count));
        }
    }
}

/// 1 / count in 24 bits behind the point: exact enough that a mean of bytes is off by less than a rounding.
fn reciprocal(count: usize) -> u64 {
    (1u64 << 24).div_ceil(count as u64)
}

#[inline(always)]
fn mean(block: &[u16], scale: u64) -> u8 {
    let sum: u32 = block.iter().map(|value| u32::from(*value)).sum();
    // A rounded-up reciprocal may carry a mean of 255 past it.
    ((u64::from(sum) * scale + (1 << 23)) >> 24).min(255) as u8
}

/// Enlarges a plane row by row, bilinearly, by a whole factor of 1, 2 or 4.
pub(super) struct Enlarger<'a> {
    plane: &'a [u8],
    width: usize,
    factor: usize,
    /// Two source rows mixed, times twice the factor, with one repeated at each end.
    mixed: Vec<u16>,
}

impl<'a> Enlarger<'a> {
    /// Of a plane with rows of `width` bytes. `mixed` is working memory, given back by [`Enlarger::finish`].
    pub fn new(plane: &'a [u8], width: usize, factor: usize, mixed: Vec<u16>) -> Enlarger<'a> {
        Enlarger { plane, width, factor, mixed }
    }

    pub fn finish(self) -> Vec<u16> {
        self.mixed
    }

    /// Row `y` of the large plane; `out` may be up to `factor - 1` shorter than `width * factor`.
    pub fn row(&mut self, y: usize, out: &mut [u8]) {
        match self.factor {
            4 => self.row_by::<4>(y, out),
            2 => self.row_by::<2>(y, out),
            _ => out.copy_from_slice(&self.plane[y * self.width..][..out.len()]),
        }
    }

    fn row_by<const F: usize>(&mut self, y: usize, out: &mut [u8]) {
        let last = self.plane.len() / self.width - 1;
        let at = y / F;
        let (weight, up) = weight::<F>(y % F);
        let other = if up { at.saturating_sub(1) } else { (at + 1).min(last) };
        let near = &self.plane[at * self.width..][..self.width];
        let far = &self.plane[other * self.width..][..self.width];
        self.mixed.resize(self.width + 2, 0);
        let unit = 2 * F as u16;
        for ((mixed, near), far) in self.mixed[1..].iter_mut().zip(near).zip(far) {
            *mixed = u16::from(*near) * (unit - weight) + u16::from(*far) * weight;
        }
        self.mixed[0] = self.mixed[1];
        self.mixed[self.width + 1] = self.mixed[self.width];

        let (left, rest) = (&self.mixed[..self.width], &self.mixed[1..]);
        let (middle, right) = (&rest[..self.width], &rest[1..][..self.width]);
        let mut chunks = out.chunks_exact_mut(F);
        let count = chunks.len();
        for (((out, left), middle), right) in
            (&mut chunks).zip(&left[..count]).zip(&middle[..count]).zip(&right[..count])
        {
            for (phase, out) in out.iter_mut().enumerate() {
                *out = between::<F>(phase, *left, *middle, *right);
            }
        }
        for (phase, out) in chunks.into_remainder().iter_mut().enumerate() {
            *out = between::<F>(phase, left[count], middle[count], right[count]);
        }
    }
}

/// How much of the neighbour is in a pixel, in parts of `2 * F`, and whether it is the neighbour before.
#[inline(always)]
fn weight<const F: usize>(phase: usize) -> (u16, bool) {
    // The pixel's centre against the source pixel's: (phase + 1/2) / F - 1/2, in parts of 2 * F.
    let offset = 2 * phase as i16 + 1 - F as i16;
    (offset.unsigned_abs(), offset < 0)
}

#[inline(always)]
fn between<const F: usize>(phase: usize, left: u16, middle: u16, right: u16) -> u8 {
    let (weight, before) = weight::<F>(phase);
    let unit = 2 * F as u16;
    let sum = middle * (unit - weight) + if before { left } else { right } * weight;
    // Twice by `unit`: 255 * 64 at most, well inside 16 bits.
    ((sum + unit * unit / 2) / (unit * unit)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shrinking_gives_the_mean_of_each_block_at_any_size() {
        for (width, height) in [(1usize, 1usize), (4, 4), (7, 5), (16, 9), (31, 33), (100, 3)] {
            let from: Vec<u8> = (0..width * height).map(|n| (n * 37 % 251) as u8).collect();
            for factor in [1, 2, 3, 4, 5, 7, 40] {
                let (sw, sh) = (width.div_ceil(factor), height.div_ceil(factor));
                let mut out = vec![0; sw * sh];
                shrink(&from, width, factor, &mut out, &mut Vec::new());
                for (n, got) in out.iter().enumerate() {
                    let (x, y) = (n % sw * factor, n / sw * factor);
                    let mut block = Vec::new();
                    for y in y..(y + factor).min(height) {
                        block.extend(
                            from[y * width..][x..(x + factor).min(width)].iter().map(|v| f64::from(*v)),
                        );
                    }
                    let mean = block.iter().sum::<f64>() / block.len() as f64;
                    assert!(
                        (mean - f64::from(*got)).abs() <= 0.51,
                        "{width}x{height} by {factor}: {got} for {mean}"
                    );
                }
            }
        }
        let mut out = [0];
        shrink(&[255; 256 * 256], 256, 256, &mut out, &mut Vec::new());
        assert_eq!(out, [255]);
    }

    #[test]
    fn enlarging_is_bilinear_at_any_size() {
        for (width, height) in [(1, 1), (2, 3), (5, 4), (17, 2)] {
            let plane: Vec<u8> = (0..width * height).map(|n| (n * 91 % 256) as u8).collect();
            for factor in [1, 2, 4] {
                for cut in 0..factor {
                    let large = width * factor - cut;
                    let mut enlarger = Enlarger::new(&plane, width, factor, Vec::new());
                    let mut out = vec![0; large];
                    for y in 0..height * factor {
                        enlarger.row(y, &mut out);
                        for (x, got) in out.iter().enumerate() {
                            let place = |at: usize, size: usize| {
                                ((at as f64 + 0.5) / factor as f64 - 0.5).clamp(0.0, (size - 1) as f64)
                            };
                            let (px, py) = (place(x, width), place(y, height));
                            let at = |x: f64, y: f64| {
                                let (x, y) = (x.min((width - 1) as f64), y.min((height - 1) as f64));
                                f64::from(plane[y as usize * width + x as usize])
                            };
                            let (fx, fy) = (px.fract(), py.fract());
                            let row = |y: f64| at(px.floor(), y) * (1.0 - fx) + at(px.floor() + 1.0, y) * fx;
                            let exact = row(py.floor()) * (1.0 - fy) + row(py.floor() + 1.0) * fy;
                            assert!(
                                (exact - f64::from(*got)).abs() <= 0.51,
                                "{width}x{height} by {factor} at {x},{y}"
                            );
                        }
                    }
                }
            }
        }
    }
}
