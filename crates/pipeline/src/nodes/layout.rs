//! Where the tiles of a composed picture are: pure geometry.

/// A place in a picture, in pixels. All four are even, so that colour, which has half the resolution, fits too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rect {
    /// From the left edge.
    pub x: u32,
    /// From the top edge.
    pub y: u32,
    /// In pixels, at least 2.
    pub width: u32,
    /// In pixels, at least 2.
    pub height: u32,
}

/// How tiles share a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayoutKind {
    /// All the same size, in rows; a last row that isn't full is centred.
    Grid,
    /// The first large, the others in a strip below it.
    Speaker,
    /// The first fills the picture, the others lie over its lower right corner.
    PictureInPicture,
}

/// A strip of small tiles is this share of the height, or of the width where it lies over the picture.
const STRIP: f64 = 0.2;
const INSET: f64 = 0.25;
/// Tiles in a strip at most; those beyond aren't shown.
const STRIP_TILES: usize = 8;
/// Smaller than this in either direction is no picture.
const SMALLEST: u32 = 2;

/// The places of `count` tiles in a picture of `width` x `height` (even, at least 16), `gap` pixels between them, shaped
/// like `aspect` (width / height) where there is a choice. The first tile is the one that matters. There may be fewer
/// places than tiles: the last ones aren't shown then.
///
/// Places lie within the picture; those of [`LayoutKind::Grid`] and [`LayoutKind::Speaker`] never overlap.
pub fn layout(kind: LayoutKind, width: u32, height: u32, gap: u32, aspect: f64, count: usize) -> Vec<Rect> {
    let whole = Rect { x: 0, y: 0, width: even(width), height: even(height) };
    if count == 0 || whole.width < SMALLEST || whole.height < SMALLEST {
        return Vec::new();
    }
    if count == 1 {
        return vec![whole];
    }
    let gap = even(gap.min(whole.width.min(whole.height) / 8));
    let places = match kind {
        LayoutKind::Grid => grid(whole, gap, aspect, count),
        LayoutKind::Speaker => speaker(whole, gap, aspect, count),
        LayoutKind::PictureInPicture => inset(whole, gap, aspect, count),
    };
    places.into_iter().take_while(|place| place.width >= SMALLEST && place.height >= SMALLEST).collect()
}

/// As many columns as make the tiles largest.
fn grid(whole: Rect, gap: u32, aspect: f64, count: usize) -> Vec<Rect> {
    // Of many tiles the gaps alone would fill the picture: half of a side is theirs at most.
    let side = (count as f64).sqrt().ceil() as u32;
    let gap = even(gap.min(whole.width.min(whole.height) / (2 * side.max(1))));
    let shape = |columns: usize| {
        let rows = count.div_ceil(columns);
        let cell = |size: u32, n: usize| {
            let gaps = gap.saturating_mul(n as u32 - 1);
            even(size.saturating_sub(gaps) / n as u32)
        };
        (cell(whole.width, columns), cell(whole.height, rows))
    };
    // What counts is the area of a picture of the usual shape inside a cell.
    let worth = |columns: &usize| {
        let (width, height) = shape(*columns);
        let (w, h) = (f64::from(width), f64::from(height));
        let fitted = w.min(h * aspect);
        (fitted * fitted / aspect) as u64
    };
    let columns = (1..=count).max_by_key(worth).unwrap_or(1);
    let (width, height) = shape(columns);
    if count > 1 && (width < SMALLEST || height < SMALLEST) {
        return grid(whole, gap, aspect, count / 2);
    }
    let rows = count.div_ceil(columns);
    let top = even((whole.height - (height * rows as u32 + gap * (rows as u32 - 1))) / 2);
    (0..count)
        .map(|index| {
            let (row, column) = (index / columns, index % columns);
            let in_row = if row + 1 == rows { count - row * columns } else { columns };
            let used = width * in_row as u32 + gap * (in_row as u32 - 1);
            let left = even((whole.width - used) / 2);
            Rect {
                x: left + column as u32 * (width + gap),
                y: top + row as u32 * (height + gap),
                width,
                height,
            }
        })
        .collect()
}

fn speaker(whole: Rect, gap: u32, aspect: f64, count: usize) -> Vec<Rect> {
    let small = (count - 1).min(STRIP_TILES);
    let height = even((f64::from(whole.height) * STRIP) as u32);
    let most = whole.width.saturating_sub(gap * (small as u32 - 1)) / small as u32;
    let width = even(((f64::from(height) * aspect) as u32).min(most));
    let main = Rect { height: even(whole.height - height - gap), ..whole };
    let used = width * small as u32 + gap * (small as u32 - 1);
    let left = even((whole.width - used) / 2);
    let strip =
        (0..small as u32).map(|n| Rect { x: left + n * (width + gap), y: main.height + gap, width, height });
    std::iter::once(main).chain(strip).collect()
}

/// From the lower right corner to the left.
fn inset(whole: Rect, gap: u32, aspect: f64, count: usize) -> Vec<Rect> {
    let width = even((f64::from(whole.width) * INSET) as u32);
    let height = even(((f64::from(width) / aspect) as u32).min(whole.height / 2));
    let fit = ((whole.width / (width + gap).max(1)) as usize).min(count - 1).min(STRIP_TILES);
    let small = (0..fit as u32).map(|n| Rect {
        x: whole.width - (n + 1) * (width + gap),
        y: whole.height - height - gap,
        width,
        height,
    });
    std::iter::once(whole).chain(small).collect()
}

fn even(n: u32) -> u32 {
    n & !1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
        Rect { x, y, width, height }
    }

    #[test]
    fn grids_people_know() {
        let grid = |count| layout(LayoutKind::Grid, 1280, 720, 0, 16.0 / 9.0, count);
        assert_eq!(grid(1), [rect(0, 0, 1280, 720)]);
        assert_eq!(grid(2), [rect(0, 0, 640, 720), rect(640, 0, 640, 720)]);
        assert_eq!(grid(4)[3], rect(640, 360, 640, 360));
        let three = grid(3);
        assert_eq!(three[..2], [rect(0, 0, 640, 360), rect(640, 0, 640, 360)]);
        assert_eq!(three[2], rect(320, 360, 640, 360), "a last row that isn't full is centred");
        assert_eq!(grid(9).len(), 9);
        assert_eq!(grid(9)[8], rect(852, 480, 426, 240));
        let tall = layout(LayoutKind::Grid, 720, 1280, 0, 16.0 / 9.0, 2);
        assert_eq!(tall, [rect(0, 0, 720, 640), rect(0, 640, 720, 640)]);
    }

    #[test]
    fn more_tiles_than_there_is_room_for() {
        assert_eq!(layout(LayoutKind::Grid, 2208, 1952, 244, 0.25, 73).len(), 73);
        let few = layout(LayoutKind::Grid, 16, 16, 8, 1.0, 80);
        assert!((1..80).contains(&few.len()), "{few:?}");
    }

    #[test]
    fn the_first_is_large_where_one_matters() {
        let places = layout(LayoutKind::Speaker, 1280, 720, 8, 16.0 / 9.0, 4);
        assert_eq!(places[0], rect(0, 0, 1280, 568));
        assert_eq!(
            places[1..].iter().map(|place| (place.y, place.height)).collect::<Vec<_>>(),
            [(576, 144); 3]
        );
        let places = layout(LayoutKind::PictureInPicture, 1280, 720, 16, 16.0 / 9.0, 3);
        assert_eq!(places, [rect(0, 0, 1280, 720), rect(944, 524, 320, 180), rect(608, 524, 320, 180)]);
        assert_eq!(layout(LayoutKind::Speaker, 1280, 720, 8, 16.0 / 9.0, 30).len(), 9);
    }

    proptest! {
        /// Whatever is asked for: even, within the picture, of a size that is one, and no two over each other but
        /// where one lies in another on purpose.
        #[test]
        fn places_are_valid_whatever_is_asked(
            kind in prop_oneof![
                Just(LayoutKind::Grid), Just(LayoutKind::Speaker), Just(LayoutKind::PictureInPicture),
            ],
            width in 16u32..4097,
            height in 16u32..4097,
            gap in 0u32..300,
            aspect in 0.25f64..4.0,
            count in 0usize..80,
        ) {
            let places = layout(kind, width, height, gap, aspect, count);
            prop_assert!(places.len() <= count);
            prop_assert_eq!(places.is_empty(), count == 0);
            for (index, a) in places.iter().enumerate() {
                for n in [a.x, a.y, a.width, a.height] {
                    prop_assert!(n % 2 == 0, "{:?}", a);
                }
                prop_assert!(a.width >= 2 && a.height >= 2, "{:?}", a);
                prop_assert!(a.x + a.width <= width && a.y + a.height <= height, "{:?}", a);
                let first = usize::from(kind == LayoutKind::PictureInPicture);
                for b in &places[first.min(index)..index] {
                    let apart = a.x >= b.x + b.width || b.x >= a.x + a.width
                        || a.y >= b.y + b.height || b.y >= a.y + a.height;
                    prop_assert!(apart || (kind == LayoutKind::PictureInPicture && *b == places[0]), "{:?} {:?}", a, b);
                }
            }
        }
    }
}
