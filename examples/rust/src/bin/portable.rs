//! portable MODEL rewrite [--json] [name=label ...] < lines      (--json: what stays, why, and how sure)
//! portable MODEL compare < pairs      (a sentence, a tab and its rewrite a line; what that says otherwise)
//! portable MODEL write PROMPT [TOKENS [TEMPERATURE [SEED]]] [name=label ...]
//! portable MODEL speed [TOKENS]

use jslm_portable::{Model, Result, Rewrite};
use std::io::{BufRead, Write};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Err(message) = run(&arguments) {
        eprintln!("portable: {}", message);
        std::process::exit(2);
    }
}

fn run(arguments: &[String]) -> std::result::Result<(), String> {
    let (path, action) = match arguments {
        [path, action, ..] => (path, action),
        _ => {
            return Err(
                "usage: portable MODEL rewrite | compare | write PROMPT [TOKENS [TEMPERATURE [SEED]]] | logits ID... | speed [TOKENS]".into()
            )
        }
    };
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {}", path, error))?;
    let model = Model::open(&bytes).map_err(|error| format!("{}: {}", path, error))?;
    let (conditions, rest): (Vec<&String>, Vec<&String>) =
        arguments[2..].iter().partition(|each| each.contains('=') && action != "speed");
    let conditions: Vec<(&str, &str)> = conditions.iter().filter_map(|each| each.split_once('=')).collect();
    let number = |at: usize, default: f64| rest.get(at).map_or(Ok(default), |text| text.parse::<f64>());
    match action.as_str() {
        "rewrite" => rewrite(&model, &conditions, rest.iter().any(|each| *each == "--json")),
        "write" => {
            let parsed = (number(1, 200.0), number(2, 0.0), number(3, 0.0));
            match (rest.first(), parsed) {
                (Some(prompt), (Ok(most), Ok(temperature), Ok(seed))) => {
                    let mut writer = model
                        .write(prompt, &conditions, most as usize, temperature as f32, seed as u64)
                        .map_err(|e| e.0)?;
                    writer.by_ref().collect::<Result<Vec<u32>>>().map_err(|error| error.0)?;
                    println!("{}{}", prompt, writer.text());
                    Ok(())
                }
                _ => Err("write: give a prompt, then numbers".into()),
            }
        }
        "compare" => compare(&model),
        "logits" => logits(&model, &conditions, &rest),
        "speed" => speed(&model, number(0, 200.0).map_err(|_| "speed: give a number of tokens")? as usize),
        _ => Err(format!("{}: expected rewrite, compare, write, logits or speed", action)),
    }
}

fn rewrite(model: &Model, conditions: &[(&str, &str)], as_json: bool) -> std::result::Result<(), String> {
    let mut out = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| error.to_string())?;
        let found = model.rewrite(&line, conditions, None).map_err(|error| error.0)?;
        let shown = if as_json { in_json(&found) } else { found.output };
        writeln!(out, "{}", shown).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// A line for each pair: what its second part says otherwise, or nothing.
fn compare(model: &Model) -> std::result::Result<(), String> {
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| error.to_string())?;
        let (source, output) = line.split_once('\t').ok_or("compare: a line without a tab")?;
        let found = model.difference(source, output, false);
        println!("{}", found.ok_or("compare: this model was made without the check of its words")?);
    }
    Ok(())
}

/// An object of one line.
fn in_json(found: &Rewrite) -> String {
    let text = |text: &str| {
        let mut quoted = String::from("\"");
        for char in text.chars() {
            match char {
                '"' | '\\' => quoted.extend(['\\', char]),
                '\0'..='\u{1f}' => quoted += &format!("\\u{:04x}", char as u32),
                _ => quoted.push(char),
            }
        }
        quoted + "\""
    };
    let number = |number: Option<f64>| number.map_or("null".into(), |number| number.to_string());
    format!(
        "{{\"output\": {}, \"changed\": {}, \"confidence\": {}, \"reason\": {}, \"logprob\": {}}}",
        text(&found.output),
        found.changed,
        number(found.confidence),
        text(&found.reason),
        number(found.log_prob)
    )
}

/// A line for each id: the logits of what comes after it.
fn logits(model: &Model, conditions: &[(&str, &str)], ids: &[&String]) -> std::result::Result<(), String> {
    let mut cache = model.start(conditions).map_err(|error| error.0)?;
    for id in ids {
        let token = id.parse::<u32>().map_err(|_| format!("logits: {} is no id", id))?;
        let found = model.read(&mut cache, &[token]).map_err(|error| error.0)?;
        println!("{}", found.iter().map(f32::to_string).collect::<Vec<String>>().join(" "));
    }
    Ok(())
}

/// Tokens a second of one text after the other: each the likeliest, and none the end.
fn speed(model: &Model, tokens: usize) -> std::result::Result<(), String> {
    let most = tokens.min(model.context_length() - 1);
    let mut best = 0.0f64;
    for _ in 0..5 {
        let mut cache = model.start(&[]).map_err(|error| error.0)?;
        let started = std::time::Instant::now();
        let mut token = 2;
        for _ in 0..most {
            let logits = model.read(&mut cache, &[token]).map_err(|error| error.0)?;
            let top = (2..logits.len()).fold(2, |best, at| if logits[at] > logits[best] { at } else { best });
            token = top as u32;
        }
        best = best.max(most as f64 / started.elapsed().as_secs_f64());
    }
    println!("{:.0} tokens/s", best);
    Ok(())
}
