//! Names compared with a map, and what stays of those that have gone.
#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[abAB]{1,3}".prop_map(String::into_bytes),
        "a{30}[abAB]{1,5}".prop_map(String::into_bytes),
        "[aÄßİ\u{308}]{1,3}".prop_map(String::into_bytes),
        Just(b"caf\xe9".to_vec()),
        "[aB]{280}".prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn names_are_a_map_that_forgets(
        operations in proptest::collection::vec((name(), any::<bool>(), any::<bool>()), 0..400),
    ) {
        let (mut names, mut lists) = (Names::default(), Lists::default());
        // Text -> its number and the rows of that name.
        let mut model: BTreeMap<Vec<u8>, (u32, Vec<u32>)> = BTreeMap::new();
        for (item, (text, add, free)) in operations.into_iter().enumerate() {
            let item = item as u32 | if free { NODE } else { 0 };
            if add {
                let number = names.intern(&text).unwrap();
                names.link(&mut lists, number, item);
                model.entry(text).or_insert((number, Vec::new())).1.push(item);
            } else if let Some((number, items)) = model.get_mut(&text) {
                let number = *number;
                names.unlink(&mut lists, number, items.pop().unwrap());
                if items.is_empty() {
                    model.remove(&text);
                }
                let doc = fold(&text).into_bytes();
                let doc = names.find_doc(names.key(&doc), &doc).unwrap();
                if free && names.is_unused(doc) {
                    names.free_doc(doc);
                    prop_assert_eq!(names.folded(doc), "");
                }
            }
        }
        let mut by_doc: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for (text, (number, items)) in &model {
            prop_assert_eq!(names.find(text), Some(*number));
            prop_assert_eq!(names.text(*number).into_owned(), text.clone());
            let mut pushed = Vec::new();
            names.push_text(*number, &mut pushed);
            prop_assert_eq!(&pushed, text);
            prop_assert_eq!(names.folded_name(*number), fold(text));
            for (other, (other_number, _)) in &model {
                prop_assert_eq!(names.compare(*number, other), text.cmp(other));
                prop_assert_eq!(names.compare_names(*number, *other_number), text.cmp(other));
            }
            by_doc.entry(fold(text)).or_default().extend(items);
        }
        let mut live = 0;
        for (folded, mut items) in by_doc {
            let doc = names.find(folded.as_bytes()).unwrap();
            items.sort_unstable();
            live += u32::from(items[0] < NODE);
            prop_assert_eq!(lists.iter(names.items(doc)).collect::<Vec<_>>(), items);
        }
        prop_assert_eq!(names.live_docs, live);
    }
}

#[test]
fn texts_of_forgotten_names_are_given_back() {
    let (mut names, mut lists) = (Names::default(), Lists::default());
    // Every other one is a variant that no mask can make.
    let text = |number: u32| format!("{}{number:060}", if number.is_multiple_of(2) { "" } else { "Ä" }).into_bytes();
    let numbers: Vec<u32> = (0..10_000).map(|number| names.intern(&text(number)).unwrap()).collect();
    for (item, number) in numbers.iter().enumerate() {
        names.link(&mut lists, *number, item as u32);
    }
    let before = names.bytes()[0];
    for (item, number) in numbers.iter().enumerate().filter(|(item, _)| item % 8 != 1 && item % 8 != 4) {
        let doc = names.doc_of(*number);
        names.unlink(&mut lists, *number, item as u32);
        names.free_doc(doc);
    }
    let mut steps = 0;
    while names.tidy(100) {
        steps += 1;
        // Changes go on meanwhile.
        let number = names.intern(&text(20_000 + steps)).unwrap();
        names.link(&mut lists, number, 20_000 + steps);
    }
    assert!(steps > 90 && names.bytes()[0] < before / 2);
    for number in (0..10_000).filter(|number| number % 8 == 1 || number % 8 == 4) {
        let text = text(number);
        assert_eq!(names.text(names.find(&text).unwrap()).as_ref(), text);
        assert_eq!(names.folded_name(names.find(&text).unwrap()), fold(&text));
    }
    assert_eq!(names.find(&text(2)), None);
}

#[test]
fn capitals_cost_a_mask_and_nothing_stays_of_a_variant() {
    let (mut names, mut lists) = (Names::default(), Lists::default());
    names.intern(b"readme").unwrap();
    let texts = names.bytes()[0];
    let variant = names.intern(b"README").unwrap();
    names.link(&mut lists, variant, 1);
    assert_eq!(names.text(variant).as_ref(), b"README");
    names.unlink(&mut lists, variant, 1);
    assert_eq!(names.find(b"README"), None);
    assert_eq!((names.bytes()[0], names.intern(b"ReadMe")), (texts, Some(variant)));
}
