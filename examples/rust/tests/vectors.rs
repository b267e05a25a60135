//! Every test vector of jslm: ids, logits, greedy texts and rewritten sentences.

use jslm_portable::json::{parse, Value};
use jslm_portable::{Finish, Model};
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    let beside = option_env!("CARGO_MANIFEST_DIR").map(|here| Path::new(here).join("../../tests/vectors"));
    std::env::var_os("JSLM_VECTORS").map(PathBuf::from).or(beside).expect("JSLM_VECTORS names no folder")
}

fn vectors() -> Vec<(Value, Model)> {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let names: Vec<PathBuf> = files.filter(|path| path.extension().map_or(false, |end| end == "json")).collect();
    assert_eq!(names.len(), 6);
    let open = |path: &PathBuf| {
        let vectors = parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        let model = std::fs::read(folder().join(vectors.need("model").unwrap().text().unwrap())).unwrap();
        (vectors, Model::open(&model).unwrap())
    };
    names.iter().map(open).collect()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).map_or(&[], |found| found.list().unwrap())
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.need(key).unwrap().text().unwrap()
}

fn ids(value: &Value, key: &str) -> Vec<u32> {
    list(value, key).iter().map(|id| id.count(1 << 24).unwrap() as u32).collect()
}

fn conditions(value: &Value) -> Vec<(&str, &str)> {
    let pairs = value.need("conditions").unwrap().pairs().unwrap();
    pairs.iter().map(|(name, label)| (name.as_str(), label.text().unwrap())).collect()
}

#[test]
fn texts_have_the_same_ids() {
    for (vectors, model) in vectors() {
        for entry in list(&vectors, "texts") {
            assert_eq!(model.encode(text(entry, "text")).unwrap(), ids(entry, "ids"), "{:?}", entry);
        }
    }
}

#[test]
fn greedy_texts_are_the_same() {
    for (vectors, model) in vectors() {
        let most = vectors.need("max_new_tokens").unwrap().count(1000).unwrap();
        for case in list(&vectors, "cases") {
            assert_eq!(model.prompt_ids(text(case, "prompt")).unwrap(), ids(case, "prompt_ids"));
            let mut writer = model.write(text(case, "prompt"), &conditions(case), most, 0.0, 0).unwrap();
            let written: Vec<u32> = writer.by_ref().map(|token| token.unwrap()).collect();
            assert_eq!(written, ids(case, "greedy_ids"), "{:?}", vectors.get("model"));
            assert_eq!(writer.text(), text(case, "greedy_text"));
            let finish = if text(case, "finish") == "stop" { Finish::Stop } else { Finish::Length };
            assert_eq!(writer.state().finish, Some(finish));
        }
    }
}

#[test]
fn logits_are_the_same_in_pieces_of_any_length() {
    for (vectors, model) in vectors() {
        // int8 rounds what is multiplied to 16 bits.
        let most = if text(&vectors, "model").contains("int8") { 2e-3 } else { 5e-5 };
        for case in list(&vectors, "cases") {
            let all = [ids(case, "prompt_ids"), ids(case, "greedy_ids")].concat();
            for piece in [1, 3, 16, 64] {
                let mut cache = model.start(&conditions(case)).unwrap();
                let mut read = 0;
                for (place, wanted) in ids(case, "positions").into_iter().zip(list(case, "logits")) {
                    let mut found = Vec::new();
                    while read <= place as usize {
                        let end = (read + piece).min(place as usize + 1);
                        found = model.read(&mut cache, &all[read..end]).unwrap();
                        read = end;
                    }
                    for (found, wanted) in found.iter().zip(wanted.list().unwrap()) {
                        let apart = (f64::from(*found) - wanted.number().unwrap()).abs();
                        assert!(apart < most, "{:?} at {}: {} apart", vectors.get("model"), place, apart);
                    }
                }
            }
        }
    }
}

#[test]
fn sentences_are_rewritten_alike() {
    let mut count = 0;
    for (vectors, model) in vectors() {
        for entry in list(&vectors, "rewrites") {
            let found = model.rewrite(text(entry, "source"), &conditions(entry), None).unwrap();
            assert_eq!(found.output, text(entry, "output"), "{:?}", entry);
            assert_eq!(plain(&found.reason), plain(text(entry, "reason")), "{:?}", entry);
            assert_eq!(found.changed, found.reason.is_empty());
            for (name, found) in [("confidence", found.confidence), ("logprob", found.log_prob)] {
                match (entry.need(name).unwrap(), found) {
                    (Value::Null, found) => assert_eq!(found, None, "{:?}", entry),
                    (wanted, Some(found)) => assert!((found - wanted.number().unwrap()).abs() < 5e-3, "{:?}", entry),
                    (_, None) => panic!("no {} of {:?}", name, entry),
                }
            }
            if let (Some(confidence), true) = (found.confidence, found.changed) {
                let sure = model.rewrite(text(entry, "source"), &conditions(entry), Some(confidence + 1e-6)).unwrap();
                assert_eq!(sure.output, text(entry, "source"));
                // Of several sentences the reason is the first one's that might have changed.
                let silent = sure.confidence.is_none() || sure.reason.starts_with("not sure enough: ");
                assert!(silent, "{}", sure.reason);
            }
            count += 1;
        }
    }
    assert!(count >= 200, "{} sentences", count);
}

/// A reason without the digits of its probabilities, which are those of another order of summation.
fn plain(reason: &str) -> String {
    reason.split("0.").map(|part| part.trim_start_matches(|char: char| char.is_ascii_digit())).collect()
}

#[test]
fn what_rewrites_say_otherwise_is_found_alike() {
    let mut count = 0;
    for (vectors, model) in vectors() {
        for entry in list(&vectors, "differences") {
            let may_add = entry.need("may_add").unwrap().flag().unwrap();
            let found = model.difference(text(entry, "source"), text(entry, "output"), may_add);
            assert_eq!(found.as_deref(), Some(text(entry, "difference")), "{:?}", entry);
            count += 1;
        }
    }
    assert!(count >= 40, "{} pairs", count);
}

#[test]
fn temperature_draws_what_the_seed_says_and_by_the_shares() {
    let (vectors, model) =
        vectors().into_iter().find(|(vectors, _)| text(vectors, "model") == "char_llama.safetensors").unwrap();
    let prompt = text(&list(&vectors, "cases")[1], "prompt");
    let write =
        |seed| model.write(prompt, &[], 12, 0.8, seed).unwrap().map(|token| token.unwrap()).collect::<Vec<u32>>();
    assert_eq!(write(5), write(5));
    assert!((0..9).any(|seed| write(seed) != write(5)));
    let ids = model.prompt_ids(prompt).unwrap();
    let logits = model.read(&mut model.start(&[]).unwrap(), &ids).unwrap();
    let shares: Vec<f64> = logits.iter().map(|logit| f64::from(logit / 0.8).exp()).collect();
    let total: f64 = shares.iter().sum();
    let mut drawn = vec![0.0; shares.len()];
    for seed in 0..4000 {
        let mut writer = model.write(prompt, &[], 1, 0.8, seed).unwrap();
        drawn[writer.next().map_or(0, |token| token.unwrap()) as usize] += 1.0 / 4000.0;
    }
    for (share, drawn) in shares.iter().zip(drawn) {
        assert!((share / total - drawn).abs() < 0.03, "{} drawn as {}", share / total, drawn);
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    for (_, model) in vectors() {
        assert!(model.write(&"e".repeat(500), &[], 5, 0.0, 0).is_err());
        assert!(model.write("e", &[("colour", "red")], 5, 0.0, 0).is_err());
        assert!(model.rewrite("", &[("style", "red")], None).is_err());
        let mut cache = model.start(&[]).unwrap();
        assert!(model.read(&mut cache, &[]).is_err());
        assert!(model.read(&mut cache, &[model.vocab_size() as u32]).is_err());
        assert!(model.read(&mut cache, &vec![1; model.context_length() + 1]).is_err());
        model.read(&mut cache, &vec![1; model.context_length()]).unwrap();
        assert!(model.read(&mut cache, &[1]).is_err());
        // The context ends a text.
        let written = model.write("e", &[], usize::MAX, 0.0, 0).unwrap().count();
        assert!(written < model.context_length());
    }
}
