//! Colour and scaling, by what is seen.

mod common;

use common::{pattern, psnr};
use remotemedia_media::{FrameError, FramePool, MediaError, Scaler, VideoFrame, scale};

#[test]
fn rgba_goes_there_and_back() {
    let pool = FramePool::default();
    for (width, height) in [(640, 360), (33, 17)] {
        // Smooth colour, as 4:2:0 keeps it.
        let rgba: Vec<u8> = (0..width * height)
            .flat_map(|i| {
                let (x, y) = (i % width, i / width);
                [
                    40 + (x * 150 / width) as u8,
                    60 + (y * 150 / height) as u8,
                    200 - (x * 90 / width) as u8,
                    255,
                ]
            })
            .collect();
        let frame = VideoFrame::from_rgba(&pool, &rgba, width, height, 5).unwrap();
        let mut back = vec![0; frame.rgba_len()];
        frame.copy_to_rgba(&mut back).unwrap();
        let db = psnr(&rgba, &back);
        println!("{width}x{height}: {db:.1} dB");
        assert!(db > 38.0, "{width}x{height}: {db}");
        assert!(back.chunks(4).all(|p| p[3] == 255));
    }
    // Sizes of less than one chroma sample's block.
    for (width, height) in [(1, 1), (2, 1), (1, 3), (3, 3)] {
        let rgba = [200, 120, 40, 255].repeat((width * height) as usize);
        let frame = VideoFrame::from_rgba(&pool, &rgba, width, height, 5).unwrap();
        let mut back = vec![0; frame.rgba_len()];
        frame.copy_to_rgba(&mut back).unwrap();
        assert!(rgba.iter().zip(&back).all(|(a, b)| a.abs_diff(*b) <= 4), "{width}x{height}: {back:?}");
    }
}

#[test]
fn colours_are_bt601_limited() {
    let pool = FramePool::default();
    // Values from ITU-R BT.601: white, black, red, green, blue.
    for (rgb, yuv) in [
        ([255, 255, 255], [235, 128, 128]),
        ([0, 0, 0], [16, 128, 128]),
        ([255, 0, 0], [81, 90, 240]),
        ([0, 255, 0], [145, 54, 34]),
        ([0, 0, 255], [41, 240, 110]),
    ] {
        let rgba: Vec<u8> = [rgb[0], rgb[1], rgb[2], 255].repeat(64);
        let frame = VideoFrame::from_rgba(&pool, &rgba, 8, 8, 0).unwrap();
        for (plane, expected) in frame.planes().iter().zip(yuv) {
            assert!(
                plane.data.iter().all(|v| v.abs_diff(expected) <= 1),
                "{rgb:?}: {:?} for {yuv:?}",
                plane.data[0]
            );
        }
    }
}

#[test]
fn buffers_of_the_wrong_size_are_refused() {
    let pool = FramePool::default();
    let frame = pattern(&pool, 16, 8, 0, 0);
    for len in [0, 511, 513] {
        let refused =
            Err(FrameError::BufferSize { format: "RGBA", width: 16, height: 8, expected: 512, actual: len });
        assert_eq!(frame.copy_to_rgba(&mut vec![0; len]), refused);
        assert_eq!(VideoFrame::from_rgba(&pool, &vec![0; len], 16, 8, 0).map(|_| ()), refused);
    }
    assert!(matches!(frame.copy_to_i420(&mut [0; 10]), Err(FrameError::BufferSize { expected: 192, .. })));
    let mut copy = vec![0; 192];
    frame.copy_to_i420(&mut copy).unwrap();
    assert_eq!(copy, frame.data());
    assert!(matches!(VideoFrame::from_rgba(&pool, &[], 0, 8, 0), Err(FrameError::Dimensions { .. })));
    assert!(matches!(VideoFrame::from_rgba(&pool, &[], u32::MAX, 8, 0), Err(FrameError::Dimensions { .. })));
}

#[test]
fn scaling_keeps_the_picture_and_the_timestamp() {
    let pool = FramePool::default();
    let original = pattern(&pool, 640, 360, 3, 1234);
    let mut scaler = Scaler::new();
    let large = scaler.scale(&original, &pool, 1280, 720).unwrap();
    assert_eq!((large.width(), large.height(), large.timestamp_us()), (1280, 720, 1234));
    let back = scaler.scale(&large, &pool, 640, 360).unwrap();
    let db = psnr(original.data(), back.data());
    println!("up and down: {db:.1} dB");
    assert!(db > 30.0, "{db}");
    // The mean of each plane survives a reduction to an odd size.
    let small = scale(&original, &pool, 101, 57).unwrap();
    for (a, b) in original.planes().iter().zip(small.planes()) {
        let mean = |d: &[u8]| d.iter().map(|v| f64::from(*v)).sum::<f64>() / d.len() as f64;
        assert!((mean(a.data) - mean(b.data)).abs() < 1.0);
    }
    assert_eq!(scale(&original, &pool, 640, 360).unwrap().data().as_ptr(), original.data().as_ptr());
    assert!(matches!(scale(&original, &pool, 0, 9), Err(MediaError::Frame(FrameError::Dimensions { .. }))));
    assert!(matches!(
        scale(&original, &pool, 9000, 9),
        Err(MediaError::Frame(FrameError::Dimensions { .. }))
    ));
}
