//! Masking tokens of posts.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use rand::{Rng, rngs::StdRng};
use serde_json::Value;

use crate::{
    carry,
    encoder::{Masked, Packed},
    training::ensure_known_id,
};

/// Masks tokens as BERT does: of those chosen, 80 % become `<mask>`, 10 % a random token, 10 % stay. The first and last
/// token, which are special tokens, are never masked.
pub(super) struct Masker {
    mask_id: u32,
    share: f32,
    vocabulary: u32,
    /// By id: whether the token is always replaced with `<mask>`.
    always: Vec<bool>,
}

impl Masker {
    /// For the tokenizer in `folder`; with `emoji`, all emoji are masked.
    pub(super) fn read(folder: &Path, vocabulary: usize, share: f32, emoji: bool) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let text = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        let json: Value = serde_json::from_str(&text).with_context(|| format!("{}: not JSON", path.display()))?;
        let mask = mask_id(&json).with_context(|| format!("{}: no token <mask>", path.display()))?;
        ensure_known_id(u64::from(mask), vocabulary, folder)?;
        let mut always = vec![false; vocabulary];
        let tokens = json.pointer("/model/vocab").and_then(Value::as_object);
        for (token, id) in tokens.into_iter().flatten().filter(|_| emoji) {
            let place = id.as_u64().and_then(|id| always.get_mut(usize::try_from(id).ok()?));
            if let Some(place) = place
                && is_emoji(token)
            {
                *place = true;
            }
        }
        Ok(Self {
            mask_id: mask,
            share,
            vocabulary: vocabulary as u32,
            always,
        })
    }

    /// The posts with some tokens masked, and those tokens.
    pub(super) fn mask<'p>(&self, posts: impl Iterator<Item = &'p [u32]>, rng: &mut StdRng) -> (Packed, Vec<Masked>) {
        let (mut packed, mut masked) = (Packed::default(), Vec::new());
        for post in posts {
            let start = packed.len();
            let mut ids = post.to_vec();
            let last = ids.len().saturating_sub(1);
            for (place, id) in ids.iter_mut().enumerate().take(last).skip(1) {
                let always = self.share > 0.0 && self.always[*id as usize];
                if !always && rng.random::<f32>() >= self.share {
                    continue;
                }
                masked.push(Masked {
                    at: start + place,
                    id: *id,
                });
                *id = match rng.random_range(0..10) {
                    0 if !always => *id,
                    1 if !always => rng.random_range(0..self.vocabulary),
                    _ => self.mask_id,
                };
            }
            packed.push(&ids);
        }
        (packed, masked)
    }
}

fn mask_id(tokenizer: &Value) -> Option<u32> {
    let added = tokenizer.get("added_tokens")?.as_array()?;
    let mask = added
        .iter()
        .find(|token| token.get("content").is_some_and(|content| content == "<mask>"))?;
    u32::try_from(mask.get("id")?.as_u64()?).ok()
}

/// Whether a token of a byte-level vocabulary consists of whole emoji.
fn is_emoji(token: &str) -> bool {
    let Some(surface) = carry::surface(token).and_then(|bytes| String::from_utf8(bytes).ok()) else {
        return false;
    };
    let surface = surface.trim();
    !surface.is_empty()
        && surface
            .chars()
            .all(|c| matches!(c, '\u{2600}'..='\u{27bf}' | '\u{1f300}'..='\u{1faff}' | '\u{fe0f}' | '\u{200d}'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn emoji_are_always_masked() {
        let folder = tempfile::tempdir().unwrap();
        // The byte-level alphabet's letters for U+1F600 and for a space before it.
        let json = serde_json::json!({
            "added_tokens": [{"id": 4, "content": "<mask>"}],
            "model": {"vocab": {"<s>": 0, "</s>": 2, "<mask>": 4, "so": 5, "ðŁĺĢ": 6, "ĠðŁĺĢ": 7, "ðŁ": 8}}
        });
        fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
        let masker = Masker::read(folder.path(), 9, 1e-9, true).unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let (posts, masked) = masker.mask([&[0, 5, 6, 7, 8, 2][..], &[0, 6, 2]].into_iter(), &mut rng);
        assert_eq!(posts.ids(), [0, 5, 4, 4, 8, 2, 0, 4, 2]);
        let places: Vec<(usize, u32)> = masked.iter().map(|token| (token.at, token.id)).collect();
        assert_eq!(places, [(2, 6), (3, 7), (7, 6)]);

        let none = Masker::read(folder.path(), 9, 1e-9, false).unwrap();
        assert!(none.mask([&[0, 6, 2][..]].into_iter(), &mut rng).1.is_empty());
        fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
        let error = Masker::read(folder.path(), 9, 0.1, false).err().unwrap();
        assert!(format!("{error:#}").contains("no token <mask>"));
    }
}
