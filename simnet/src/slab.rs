//! A table with stable keys and constant-time insertion and removal.
//!
//! A key that was removed never finds what took its slot later: steps that were made stale by a
//! cancellation simply find nothing.

/// Names an entry of one [`Slab`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SlabKey {
    slot: u32,
    generation: u32,
}

#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(crate) fn insert(&mut self, value: T) -> SlabKey {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push((0, None));
            u32::try_from(self.entries.len() - 1).expect("memory ends long before the keys do")
        });
        let entry = &mut self.entries[slot as usize];
        entry.1 = Some(value);
        SlabKey { slot, generation: entry.0 }
    }

    pub(crate) fn get_mut(&mut self, key: SlabKey) -> Option<&mut T> {
        let (generation, value) = self.entries.get_mut(key.slot as usize)?;
        value.as_mut().filter(|_| *generation == key.generation)
    }

    pub(crate) fn get(&self, key: SlabKey) -> Option<&T> {
        let (generation, value) = self.entries.get(key.slot as usize)?;
        value.as_ref().filter(|_| *generation == key.generation)
    }

    pub(crate) fn remove(&mut self, key: SlabKey) -> Option<T> {
        let (generation, value) = self.entries.get_mut(key.slot as usize)?;
        if *generation != key.generation {
            return None;
        }
        let value = value.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(key.slot);
        Some(value)
    }

    /// Every entry, in the order of slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SlabKey, &T)> {
        (0_u32..).zip(&self.entries).filter_map(|(slot, (generation, value))| {
            Some((SlabKey { slot, generation: *generation }, value.as_ref()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_key_does_not_find_what_took_its_slot() {
        let mut slab = Slab::default();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!((slab.get(second), slab.iter().count()), (Some(&'b'), 1));
    }
}
