//! This file turns the variants of an event enum into a type name and JSON fields, and back.
//!
//! Serde would write `{"Deposited": {"cents": 5}}`; the log keeps `Deposited` in a column of its own and only
//! `{"cents": 5}` as data. A variant without fields has the data `{}`.

use std::cell::Cell;
use std::io;
use std::sync::Arc;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer as _, EnumAccess, IntoDeserializer, VariantAccess, Visitor,
};
use serde::ser::{
    self, Impossible, Serialize, SerializeStruct, SerializeStructVariant, SerializeTuple, SerializeTupleVariant,
};
use serde_json::Error;

type JsonSerializer<'a> = serde_json::Serializer<&'a mut Vec<u8>>;

/// The variant's name and its fields as JSON.
///
/// # Errors
/// When `value` is not an enum variant, or its fields cannot be written as JSON (a map with keys that are no strings).
pub(crate) fn encode_variant<T: Serialize>(value: &T) -> Result<(&'static str, Arc<str>), Error> {
    let mut name = "";
    let json = shared_json(|json| {
        value.serialize(VariantSerializer { json: &mut serde_json::Serializer::new(json), name: &mut name })
    })?;
    Ok((name, json))
}

/// JSON text as `write` makes it, in one piece of memory of its very size: what grows on the way is kept by the thread
/// for the next.
///
/// # Errors
/// Those of `write`.
pub(crate) fn shared_json(write: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>) -> Result<Arc<str>, Error> {
    /// What a thread keeps at most.
    const KEPT_BYTES: usize = 64 << 10;
    thread_local! {
        static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }
    // Taken, not borrowed: what is being written may write itself.
    let mut scratch = SCRATCH.take();
    scratch.clear();
    let written = write(&mut scratch);
    let json = written.map(|()| str::from_utf8(&scratch).expect("serde_json writes UTF-8").into());
    if scratch.capacity() <= KEPT_BYTES {
        SCRATCH.set(scratch);
    }
    json
}

/// How many bytes the value has as JSON; nothing is kept of them.
///
/// # Errors
/// When it cannot be written as JSON.
pub(crate) fn json_length<T: Serialize>(value: &T) -> Result<usize, Error> {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value)?;
    Ok(count.0)
}

/// The variant called `name` with the fields in `json`.
///
/// # Errors
/// When there is no such variant, or the fields are not its fields.
pub(crate) fn decode_variant<T: DeserializeOwned>(name: &str, json: &str) -> Result<T, Error> {
    T::deserialize(VariantDeserializer { name, json })
}

struct VariantSerializer<'a, 'j> {
    json: &'a mut JsonSerializer<'j>,
    name: &'a mut &'static str,
}

fn no_variant<T>() -> Result<T, Error> {
    Err(ser::Error::custom("an event must be a variant of an enum"))
}

macro_rules! refuse {
    ($($method:ident($($argument:ty),*);)*) => {
        $(fn $method(self, $(_: $argument),*) -> Result<(), Error> { no_variant() })*
    };
}

impl<'a, 'j> ser::Serializer for VariantSerializer<'a, 'j> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Impossible<(), Error>;
    type SerializeTuple = Impossible<(), Error>;
    type SerializeTupleStruct = Impossible<(), Error>;
    type SerializeTupleVariant = Fields<<&'a mut JsonSerializer<'j> as ser::Serializer>::SerializeTuple>;
    type SerializeMap = Impossible<(), Error>;
    type SerializeStruct = Impossible<(), Error>;
    type SerializeStructVariant = Fields<<&'a mut JsonSerializer<'j> as ser::Serializer>::SerializeStruct>;

    refuse! {
        serialize_bool(bool); serialize_i8(i8); serialize_i16(i16); serialize_i32(i32); serialize_i64(i64);
        serialize_u8(u8); serialize_u16(u16); serialize_u32(u32); serialize_u64(u64); serialize_f32(f32);
        serialize_f64(f64); serialize_char(char); serialize_str(&str); serialize_bytes(&[u8]); serialize_none();
        serialize_unit(); serialize_unit_struct(&'static str);
    }

    fn serialize_some<T: ?Sized + Serialize>(self, _: &T) -> Result<(), Error> {
        no_variant()
    }

    fn serialize_newtype_struct<T: ?Sized + Serialize>(self, _: &'static str, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Error> {
        *self.name = variant;
        SerializeStruct::end(ser::Serializer::serialize_struct(self.json, "", 0)?)
    }

    fn serialize_newtype_variant<T: ?Sized + Serialize>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        *self.name = variant;
        value.serialize(self.json)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, Error> {
        *self.name = variant;
        Ok(Fields(self.json.serialize_tuple(len)?))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, Error> {
        *self.name = variant;
        Ok(Fields(self.json.serialize_struct(name, len)?))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Error> {
        no_variant()
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Error> {
        no_variant()
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Error> {
        no_variant()
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Error> {
        no_variant()
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Error> {
        no_variant()
    }
}

/// Writes a variant's fields as a plain struct or tuple, without the variant's name around it.
struct Fields<C>(C);

impl<C: SerializeStruct<Ok = (), Error = Error>> SerializeStructVariant for Fields<C> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: ?Sized + Serialize>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        self.0.serialize_field(key, value)
    }

    fn end(self) -> Result<(), Error> {
        self.0.end()
    }
}

impl<C: SerializeTuple<Ok = (), Error = Error>> SerializeTupleVariant for Fields<C> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Error> {
        self.0.serialize_element(value)
    }

    fn end(self) -> Result<(), Error> {
        self.0.end()
    }
}

struct VariantDeserializer<'de> {
    name: &'de str,
    json: &'de str,
}

impl<'de> de::Deserializer<'de> for VariantDeserializer<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_enum(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq
        tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> EnumAccess<'de> for VariantDeserializer<'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let name: StrDeserializer<'de, Error> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantDeserializer<'de> {
    fn fields<T>(
        self,
        read: impl FnOnce(&mut serde_json::Deserializer<serde_json::de::StrRead<'de>>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut json = serde_json::Deserializer::from_str(self.json);
        let value = read(&mut json)?;
        json.end()?;
        Ok(value)
    }
}

impl<'de> VariantAccess<'de> for VariantDeserializer<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        self.fields(|json| json.deserialize_ignored_any(de::IgnoredAny)).map(drop)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        self.fields(|json| seed.deserialize(json))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.fields(|json| json.deserialize_tuple(len, visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.fields(|json| json.deserialize_struct("", fields, visitor))
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Sample {
        Closed,
        Deposited { cents: i64, note: Option<String> },
        Renamed(String),
        Moved(i32, i32),
    }

    fn round_trip(sample: Sample, name: &str, json: &str) {
        assert_eq!(encode_variant(&sample).unwrap(), (encode_variant(&sample).unwrap().0, json.into()));
        assert_eq!(encode_variant(&sample).unwrap().0, name);
        assert_eq!(decode_variant::<Sample>(name, json).unwrap(), sample);
    }

    #[test]
    fn what_is_counted_is_what_would_be_written() {
        for value in [serde_json::json!({"a": [1, 2.5, "é\n"]}), serde_json::json!(null), serde_json::json!("")] {
            assert_eq!(json_length(&value).unwrap(), serde_json::to_string(&value).unwrap().len(), "{value}");
        }
        let no_json = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert!(json_length(&no_json).is_err());
    }

    #[test]
    fn what_writes_itself_while_something_is_written_leaves_both_whole() {
        let mut inner = None;
        let outer = shared_json(|json| {
            inner = Some(shared_json(|json| serde_json::to_writer(json, "inner")));
            serde_json::to_writer(json, "outer")
        });

        assert_eq!((&*outer.unwrap(), &*inner.unwrap().unwrap()), ("\"outer\"", "\"inner\""));
        let failed = shared_json(|json| {
            json.extend(b"left behind");
            Err(serde::ser::Error::custom("as this test wants it"))
        });
        assert!(failed.is_err());
        assert_eq!(&*shared_json(|json| serde_json::to_writer(json, &1)).unwrap(), "1");
    }

    #[test]
    fn every_kind_of_variant_survives_the_way_to_the_log_and_back() {
        round_trip(Sample::Closed, "Closed", "{}");
        round_trip(Sample::Deposited { cents: 5, note: None }, "Deposited", r#"{"cents":5,"note":null}"#);
        round_trip(Sample::Renamed("x\"y".into()), "Renamed", r#""x\"y""#);
        round_trip(Sample::Moved(1, -2), "Moved", "[1,-2]");
    }

    #[test]
    fn an_unknown_variant_is_an_error_that_names_it() {
        let error = decode_variant::<Sample>("Vanished", "{}").unwrap_err();

        assert!(error.to_string().contains("unknown variant `Vanished`"), "{error}");
    }

    #[test]
    fn trailing_data_and_wrong_fields_are_errors() {
        assert!(decode_variant::<Sample>("Deposited", r#"{"cents":5,"note":null} x"#).is_err());
        assert!(decode_variant::<Sample>("Deposited", r#"{"cents":"five"}"#).is_err());
    }

    #[test]
    fn a_struct_is_no_event() {
        #[derive(Serialize)]
        struct Plain {
            cents: i64,
        }

        assert!(encode_variant(&Plain { cents: 5 }).is_err());
    }
}
