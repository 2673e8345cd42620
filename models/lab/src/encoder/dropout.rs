//! Dropout whose masks are recomputed instead of stored.

use pulp::Arch;

/// Inverted dropout. The mask is a function of a seed and the element's position, so the backward pass computes the same mask
/// again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dropout {
    seed: u64,
    /// The probability to keep an element, in units of 1 / 65,536.
    keep: u32,
    scale: f32,
}

/// Elements per block: sixteen lanes, with one random number for two elements.
const DRAWN: usize = 32;

impl Dropout {
    /// `rate` in 0..1; 0 turns dropout off.
    pub(super) fn new(rate: f32, seed: u64) -> Self {
        let keep = ((1.0 - f64::from(rate)) * 65_536.0).round().clamp(1.0, 65_536.0);
        Self {
            seed,
            keep: keep as u32,
            scale: (65_536.0 / keep) as f32,
        }
    }

    /// The mask for one place in the network, which `site` numbers.
    pub(super) fn at(self, site: usize) -> Self {
        Self {
            seed: mix(self.seed ^ mix(site as u64 + 1)),
            ..self
        }
    }

    pub(super) fn is_off(self) -> bool {
        self.keep == 65_536
    }

    pub(super) fn apply(self, values: &mut [f32]) {
        if self.is_off() {
            return;
        }
        Arch::new().dispatch(|| {
            let (blocks, rest) = values.as_chunks_mut::<DRAWN>();
            let last = blocks.len();
            for (index, block) in blocks.iter_mut().enumerate() {
                self.apply_block(index, block);
            }
            let mut block = [0.0; DRAWN];
            block[..rest.len()].copy_from_slice(rest);
            self.apply_block(last, &mut block);
            rest.copy_from_slice(&block[..rest.len()]);
        });
    }

    #[inline(always)]
    fn apply_block(self, index: usize, block: &mut [f32; DRAWN]) {
        const LANES: usize = DRAWN / 2;
        let first = (index * LANES) as u32;
        let (low, high) = block.split_at_mut(LANES);
        for (lane, (low, high)) in (0..).zip(low.iter_mut().zip(high)) {
            let bits = mix_lane(first.wrapping_add(lane), self.seed);
            *low *= if bits & 0xffff < self.keep { self.scale } else { 0.0 };
            *high *= if bits >> 16 < self.keep { self.scale } else { 0.0 };
        }
    }
}

/// The finaliser of SplitMix64 over a Weyl step.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Thirty-two random bits for a position and a seed: the finaliser "lowbias32" of Wellons's hash prospector, which needs
/// only 32-bit products and so can be vectorised. The halves of the seed enter at two steps, so that the masks of two seeds
/// are not shifts of each other.
#[inline(always)]
fn mix_lane(place: u32, seed: u64) -> u32 {
    let mut z = place.wrapping_add(seed as u32);
    z = (z ^ (z >> 16)).wrapping_mul(0x7feb_352d) ^ (seed >> 32) as u32;
    z = (z ^ (z >> 15)).wrapping_mul(0x846c_a68b);
    z ^ (z >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropout_keeps_its_share_and_sites_are_independent() {
        const COUNT: usize = 100_003;
        let dropout = Dropout::new(0.1, 7);
        let masks: Vec<Vec<bool>> = (0..4)
            .map(|site| {
                let mut values = vec![1.0; COUNT];
                dropout.at(site).apply(&mut values);
                let mut again = vec![1.0; COUNT];
                dropout.at(site).apply(&mut again);
                assert_eq!(values, again);
                assert!(values.iter().all(|&value| value == 0.0 || value == dropout.scale));
                values.iter().map(|&value| value > 0.0).collect()
            })
            .collect();
        let share = |mask: &dyn Fn(usize) -> bool| {
            let kept = (0..COUNT - 32).filter(|&place| mask(place)).count();
            kept as f64 / (COUNT - 32) as f64
        };
        // Four standard deviations.
        let close = |found: f64, expected: f64| {
            assert!((found - expected).abs() < 0.005, "{found} instead of {expected}");
        };
        for mask in &masks {
            close(share(&|place| mask[place]), 0.9);
            for step in [1, 16, 32] {
                close(share(&|place| mask[place] && mask[place + step]), 0.81);
            }
        }
        close(share(&|place| masks[0][place] && masks[1][place]), 0.81);
        close(share(&|place| masks[2][place] && masks[3][place]), 0.81);
    }
}
