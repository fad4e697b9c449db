//! Hostile input: valid input, damaged.

use crate::random::Random;

/// Damages bytes and text in ways a seed repeats.
#[derive(Debug, Clone)]
pub struct Mutator {
    random: Random,
}

impl Mutator {
    /// The mutations of this seed.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed) }
    }

    /// A damaged copy: bits flipped, bytes set to edges, runs removed, doubled or cut off.
    pub fn bytes(&mut self, input: &[u8]) -> Vec<u8> {
        let mut out = input.to_vec();
        for _ in 0..=self.random.below(6) {
            let at = self.random.below(out.len());
            let run = 1 + self.random.below(16);
            let end = (at + run).min(out.len());
            match self.random.below(6) {
                0 if !out.is_empty() => out[at] ^= 1 << self.random.below(8),
                1 if !out.is_empty() => out[at] = [0, 1, 0x7f, 0x80, 0xff][self.random.below(5)],
                2 => drop(out.drain(at..end)),
                3 => {
                    let copy = out[at..end].to_vec();
                    out.splice(at..at, copy);
                }
                4 => out.truncate(at),
                _ => {
                    let noise = self.random.bytes(run);
                    out.splice(at..at, noise);
                }
            }
        }
        out
    }

    /// A damaged copy of a text of lines: lines removed, doubled, swapped; words replaced by edges; bytes damaged.
    pub fn lines(&mut self, input: &str) -> String {
        const EDGES: [&str; 12] = [
            "",
            "0",
            "-1",
            "65536",
            "4294967296",
            "99999999999999999999",
            "%s",
            "\u{0}",
            "a=",
            "é",
            "::1",
            "BUNDLE",
        ];
        let mut lines: Vec<String> = input.lines().map(str::to_owned).collect();
        for _ in 0..=self.random.below(4) {
            let at = self.random.below(lines.len());
            if lines.is_empty() {
                break;
            }
            match self.random.below(6) {
                0 => drop(lines.remove(at)),
                1 => lines.insert(at, lines[at].clone()),
                2 => {
                    let other = self.random.below(lines.len());
                    lines.swap(at, other);
                }
                3 | 4 => {
                    let mut words: Vec<&str> = lines[at].split([' ', ':', '=']).collect();
                    let word = self.random.below(words.len());
                    words[word] = EDGES[self.random.below(EDGES.len())];
                    let joint = [" ", ":", "="][self.random.below(3)];
                    lines[at] = words.join(joint);
                }
                _ => lines[at] = String::from_utf8_lossy(&self.bytes(lines[at].as_bytes())).into_owned(),
            }
        }
        lines.join("\r\n")
    }
}
