//! What a tick of the conference mixer costs, by the number of inputs. `cargo bench -p remotemedia-media --bench mixer`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use remotemedia_media::{AudioFrame, Mixer, MixerConfig, OPUS_RATE};

#[path = "../tests/common/mod.rs"]
mod common;
use common::{audio, sine};

/// A room in which all speak at once, the worst there is: each has a mix of its own. `ppm`: how much their clocks are off.
struct Room {
    mixer: Mixer<usize>,
    frames: Vec<AudioFrame>,
    start: Instant,
    ticks: u32,
    ppm: f64,
}

impl Room {
    fn new(inputs: usize, ppm: f64) -> Room {
        let frame =
            |n: usize| audio(sine(200.0 + n as f64 * 50.0, 0.01, OPUS_RATE, 1, 0, 960), OPUS_RATE, 1, 0);
        let mut room = Room {
            mixer: Mixer::new(MixerConfig::default()).unwrap(),
            frames: (0..inputs).map(frame).collect(),
            start: Instant::now(),
            ticks: 0,
            ppm,
        };
        for _ in 0..50 {
            room.tick();
        }
        room
    }

    /// A frame of everybody, and the tick that mixes them.
    fn tick(&mut self) -> usize {
        self.ticks += 1;
        let sent =
            self.start + Duration::from_secs_f64(0.02 * f64::from(self.ticks) / (1.0 + self.ppm / 1e6));
        for (key, frame) in self.frames.iter().enumerate() {
            self.mixer.push(&key, frame, sent).unwrap();
        }
        let mut given = 0;
        while let Some(mixed) = self.mixer.tick(self.start + Duration::from_millis(20) * self.ticks) {
            given += mixed.own.len();
        }
        given
    }
}

fn ticks(c: &mut Criterion) {
    let mut group = c.benchmark_group("mixer, a 20 ms tick");
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for (name, ppm) in [("clocks in step", 0.0), ("clocks off by 200 ppm", 200.0)] {
        for inputs in [2, 5, 10, 50] {
            let mut room = Room::new(inputs, ppm);
            group.bench_function(BenchmarkId::new(name, inputs), |b| b.iter(|| black_box(room.tick())));
        }
    }
    group.finish();
}

criterion_group!(mixer, ticks);
criterion_main!(mixer);
