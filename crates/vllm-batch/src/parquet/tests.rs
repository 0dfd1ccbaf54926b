//! Rows written and read again.

use std::fs::File;

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{ParquetRows, ParquetWriter, TableSchema};

fn through_a_file(rows: &[Map<String, Value>]) -> Vec<Map<String, Value>> {
    let path = tempfile::NamedTempFile::new().unwrap();
    let mut schema = TableSchema::default();
    rows.iter().for_each(|row| schema.add(row));
    let mut writer = ParquetWriter::new(File::create(path.path()).unwrap(), schema).unwrap();
    for row in rows {
        // Large enough for several row groups.
        writer.add(row, 6 << 20).unwrap();
    }
    writer.finish().unwrap();
    let mut reader = ParquetRows::open("table", File::open(path.path()).unwrap()).unwrap();
    std::iter::from_fn(|| reader.next_row().unwrap()).collect()
}

fn objects(rows: Value) -> Vec<Map<String, Value>> {
    serde_json::from_value(rows).unwrap()
}

/// Values of one shape, any part of which may be missing.
fn row() -> impl Strategy<Value = Map<String, Value>> {
    let number = of(-1000_i64..1000).prop_map(|number| json!(number));
    let numbers = of(vec(number, 0..4)).prop_map(|numbers| json!(numbers));
    let text = of("[a-zé\u{0}]{0,5}").prop_map(|text| json!(text));
    let item = of((numbers, text)).prop_map(|item| match item {
        Some((numbers, text)) => json!({"numbers": numbers, "text": text}),
        None => Value::Null,
    });
    let items = of(vec(item, 0..4)).prop_map(|items| json!(items));
    (items, of(any::<bool>()), of(-10.0..10.0)).prop_map(|(items, truth, share)| {
        let row = json!({"items": items, "truth": truth, "share": share});
        row.as_object().cloned().unwrap()
    })
}

proptest! {
    #[test]
    fn rows_come_back_as_they_were(rows in vec(row(), 1..12)) {
        // A row that has everything, so that every member has a type.
        let whole = json!([{
            "items": [{"numbers": [1], "text": "a"}], "truth": true, "share": 0.5,
        }]);
        let rows = [objects(whole), rows].concat();
        prop_assert_eq!(through_a_file(&rows), rows);
    }
}

#[test]
fn what_does_not_fit_together_becomes_text() {
    let rows = objects(json!([
        {"a": 1, "b": {"x": 1}, "c": null, "d": {}},
        {"a": "one", "b": [2], "e": u64::MAX},
    ]));
    let expected = objects(json!([
        {"a": "1", "b": "{\"x\":1}", "c": null, "d": "{}", "e": null},
        {"a": "one", "b": "[2]", "c": null, "d": null, "e": u64::MAX as f64},
    ]));
    assert_eq!(through_a_file(&rows), expected);
}

#[test]
fn the_same_rows_give_the_same_bytes() {
    let write = || {
        let rows = objects(json!([{"a": [1, 2], "b": "text"}, {"a": null}]));
        let mut schema = TableSchema::default();
        rows.iter().for_each(|row| schema.add(row));
        let mut writer = ParquetWriter::new(Vec::new(), schema).unwrap();
        rows.iter().for_each(|row| writer.add(row, 1).unwrap());
        writer.finish().unwrap()
    };
    assert_eq!(write(), write());
}

#[test]
fn other_files_are_refused() {
    for bytes in [
        &b""[..],
        b"PAR1",
        b"not a table",
        b"PAR1\xff\xff\xff\x7fPAR1",
    ] {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), bytes).unwrap();
        let error = ParquetRows::open("rows.parquet", File::open(path.path()).unwrap()).err();
        let message = error.unwrap().to_string();
        assert!(message.starts_with("rows.parquet: "), "{message}");
    }
}
