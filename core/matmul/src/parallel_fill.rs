//! Large vectors that are made in parallel.

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// A vector of `len` elements that `fill` makes out of zeros, piece by piece (the last may be shorter) and in parallel.
///
/// `vec![0; len]` has one thread write all the zeros, and take all the page faults of fresh memory, before others can begin.
pub fn by_pieces<T: Copy + Default + Send + Sync>(
    len: usize,
    piece: usize,
    fill: impl Fn(usize, &mut [T]) + Sync,
) -> Vec<T> {
    // SAFETY: `first` fills its piece.
    #[allow(unsafe_code)]
    unsafe {
        make(len, piece, |_, room| room.fill(MaybeUninit::new(T::default())), fill)
    }
}

/// The same out of a copy of `from`.
pub fn copied_by_pieces<T: Copy + Send + Sync>(
    from: &[T],
    piece: usize,
    fill: impl Fn(usize, &mut [T]) + Sync,
) -> Vec<T> {
    let piece = piece.max(1);
    let copy = |index: usize, room: &mut [MaybeUninit<T>]| {
        for (slot, value) in room.iter_mut().zip(&from[index * piece..]) {
            slot.write(*value);
        }
    };
    // SAFETY: pieces of `from.len()` elements begin where those of `from` do, so that there is a value for each element.
    #[allow(unsafe_code)]
    unsafe {
        make(from.len(), piece, copy, fill)
    }
}

/// A vector whose pieces `first` writes before `fill` works on them.
///
/// # Safety
/// `first` must write every element of the piece that it is given.
#[allow(unsafe_code)]
unsafe fn make<T: Copy + Send + Sync>(
    len: usize,
    piece: usize,
    first: impl Fn(usize, &mut [MaybeUninit<T>]) + Sync,
    fill: impl Fn(usize, &mut [T]) + Sync,
) -> Vec<T> {
    let mut made = Vec::with_capacity(len);
    let room = &mut made.spare_capacity_mut()[..len];
    room.par_chunks_mut(piece.max(1)).enumerate().for_each(|(index, room)| {
        first(index, room);
        // SAFETY: the caller vouches that every element of this piece was just written.
        #[allow(unsafe_code)]
        let piece = unsafe { room.assume_init_mut() };
        fill(index, piece);
    });
    // SAFETY: the pieces cover the first `len` elements, and each was written whole.
    #[allow(unsafe_code)]
    unsafe {
        made.set_len(len);
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_filled_once() {
        for (len, piece) in [(0, 3), (1, 3), (7, 3), (9, 3), (5, 100), (4, 0)] {
            let made: Vec<u32> = by_pieces(len, piece, |index, out| {
                assert!(out.iter().all(|value| *value == 0));
                out.iter_mut().zip(index * piece.max(1)..).for_each(|(slot, value)| *slot = value as u32);
            });
            assert_eq!(made, (0..len as u32).collect::<Vec<_>>());
            let more = copied_by_pieces(&made, piece, |_, out| out.iter_mut().for_each(|value| *value += 1));
            assert_eq!(more, (1..=len as u32).collect::<Vec<_>>());
        }
    }
}
