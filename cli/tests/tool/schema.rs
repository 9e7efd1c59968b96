//! The schemas in docs/json against what the tool really prints: every JSON document of every test
//! goes through here. A field that a schema does not name is as wrong as one that is missing.

use std::path::Path;

use serde_json::Value;

/// Which schema the output of these arguments follows; `None` if they print no JSON document.
fn name_of(arguments: &[&str]) -> Option<String> {
    if arguments.contains(&"--") {
        // The output is another program's.
        return None;
    }
    let format = arguments.iter().position(|word| *word == "--format")?;
    if arguments.get(format + 1) != Some(&"json") {
        return None;
    }
    let mut words = arguments.iter();
    match *words.find(|word| !word.starts_with('-'))? {
        "list" if arguments.contains(&"--heuristic") => Some("list-heuristic".to_owned()),
        "forget" if arguments.contains(&"--lost") => Some("forget-lost".to_owned()),
        "recover" if arguments.contains(&"--dry-run") => Some("list".to_owned()),
        "log" => words.next().map(|verb| format!("log-{verb}")),
        verb => Some(verb.to_owned()),
    }
}

/// # Panics
/// When the output is not as its schema says, or there is no schema.
#[track_caller]
pub(crate) fn check(arguments: &[&str], stdout: &str) {
    let Some(name) = name_of(arguments) else {
        return;
    };
    if stdout.is_empty() {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/json");
    let path = path.join(format!("{name}.schema.json"));
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}: write the schema", path.display()));
    let schema: Value = serde_json::from_str(&text).unwrap();
    // One document, or one on each line.
    for output in serde_json::Deserializer::from_str(stdout).into_iter::<Value>() {
        let output = output.unwrap_or_else(|error| {
            panic!("{arguments:?} prints no JSON document: {error}: {stdout}")
        });
        if let Err(fault) = fits(&schema, &schema, &output) {
            panic!("docs/json/{name}.schema.json: {fault}\n{output:#}");
        }
    }
}

/// As much of JSON Schema as our schemas use.
fn fits(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let keys = schema.as_object().unwrap().keys();
    let unknown = keys.clone().find(|key| !KNOWN.contains(&key.as_str()));
    assert_eq!(
        unknown, None,
        "a word of JSON Schema that this check does not know"
    );
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.strip_prefix("#/$defs/").unwrap();
        let schema = root["$defs"]
            .get(name)
            .unwrap_or_else(|| panic!("no $defs/{name}"));
        return fits(root, schema, value).map_err(|fault| format!("{name}: {fault}"));
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let mut faults = choices.iter().map(|choice| fits(root, choice, value));
        return faults
            .find(Result::is_ok)
            .unwrap_or(Err(format!("{value} fits no choice")));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
        && !value.is_null()
    {
        return Err(format!("{value} is none of {words:?}"));
    }
    let types = schema["type"].as_array().cloned();
    let types = types.unwrap_or_else(|| vec![schema["type"].clone()]);
    if !types.iter().any(|name| is_a(name.as_str().unwrap(), value)) {
        return Err(format!("{value} is no {types:?}"));
    }
    if let (Some(number), Some(least)) = (value.as_i64(), schema["minimum"].as_i64())
        && number < least
    {
        return Err(format!("{number} is less than {least}"));
    }
    if let Some(items) = value.as_array() {
        return items
            .iter()
            .try_for_each(|item| fits(root, &schema["items"], item));
    }
    let Some(fields) = value.as_object() else {
        return Ok(());
    };
    let required = schema["required"].as_array().unwrap().iter();
    let mut required = required.map(|name| name.as_str().unwrap());
    if let Some(name) = required.find(|name| !fields.contains_key(*name)) {
        return Err(format!("{name} is missing"));
    }
    fields.iter().try_for_each(|(name, value)| {
        let of_field = schema["properties"].get(name);
        let of_field = of_field.ok_or_else(|| format!("{name} is in no schema"))?;
        fits(root, of_field, value).map_err(|fault| format!("{name}: {fault}"))
    })
}

const KNOWN: [&str; 12] = [
    "$schema",
    "$defs",
    "$ref",
    "title",
    "description",
    "type",
    "enum",
    "anyOf",
    "minimum",
    "items",
    "properties",
    "required",
];

fn is_a(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        _ => panic!("a type that this check does not know: {name}"),
    }
}

#[test]
fn what_is_not_as_the_schema_says_is_found() {
    let arguments = ["log", "init", "--format", "json"];
    check(
        &arguments,
        r#"{"place": "p", "manager": "m", "made": true}"#,
    );
    for wrong in [
        r#"{"place": "p", "manager": "m"}"#,
        r#"{"place": "p", "manager": "m", "made": "yes"}"#,
        r#"{"place": null, "manager": "m", "made": true}"#,
        r#"{"place": "p", "manager": "m", "made": true, "more": 1}"#,
    ] {
        let found = std::panic::catch_unwind(|| check(&arguments, wrong));
        assert!(found.is_err(), "{wrong}");
    }
    assert_eq!(name_of(&["list"]), None);
}
