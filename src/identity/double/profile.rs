//! This file is the double's user profile: which values are taken, and which attributes are kept.

use serde_json::{Value, json};

use super::refusal::Refusal;
use super::users::Wanted;

/// Fields of an account that the profile describes.
const USERNAME: &str = "username";
const EMAIL: &str = "email";
const FIRST_NAME: &str = "firstName";
const LAST_NAME: &str = "lastName";
/// Longest value of an attribute that the profile does not describe.
const MAX_UNMANAGED_CHARS: usize = 2_048;

/// The profile as it was put, and as it is answered.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    document: Value,
}

impl Default for Profile {
    /// Keycloak's own for a fresh realm, and attributes for administrators.
    fn default() -> Self {
        let everybody = json!({"view": ["admin", "user"], "edit": ["admin", "user"]});
        let name = |name: &str| {
            json!({"name": name, "permissions": everybody,
                   "validations": {"length": {"max": 255}, "person-name-prohibited-characters": {}}})
        };
        let document = json!({
            "unmanagedAttributePolicy": "ADMIN_EDIT",
            "attributes": [
                {"name": USERNAME, "permissions": everybody,
                 "validations": {"length": {"min": 3, "max": 255}, "username-prohibited-characters": {}}},
                {"name": EMAIL, "permissions": everybody, "validations": {"email": {}, "length": {"max": 255}}},
                name(FIRST_NAME),
                name(LAST_NAME),
            ],
            "groups": [],
        });
        Self { document }
    }
}

impl Profile {
    pub(super) fn document(&self) -> &Value {
        &self.document
    }

    /// Takes another profile, as it is: a null policy is none.
    pub(super) fn put(&mut self, mut document: Value) -> Result<(), Refusal> {
        if !document["attributes"].is_array() {
            return Err(Refusal::bad("UserProfile configuration is invalid"));
        }
        if let Some(fields) = document.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        self.document = document;
        Ok(())
    }

    /// Whether administrators may write, and see, an attribute.
    pub(super) fn keeps(&self, attribute: &str) -> bool {
        match self.described(attribute) {
            Some(described) => contains(&described["permissions"]["edit"], "admin"),
            None => matches!(self.document["unmanagedAttributePolicy"].as_str(), Some("ADMIN_EDIT" | "ENABLED")),
        }
    }

    /// Drops what the profile has no place for.
    pub(super) fn filter(&self, wanted: &mut Wanted) {
        for (field, value) in
            [(EMAIL, &mut wanted.email), (FIRST_NAME, &mut wanted.first_name), (LAST_NAME, &mut wanted.last_name)]
        {
            if self.described(field).is_none() {
                *value = None;
            }
        }
        wanted.attributes.retain(|name, values| self.keeps(name) && !values.is_empty());
    }

    /// Whether the values are such as the profile asks for.
    pub(super) fn validate(&self, wanted: &Wanted) -> Result<(), Refusal> {
        let fields = [
            (USERNAME, Some(&wanted.username)),
            (EMAIL, wanted.email.as_ref()),
            (FIRST_NAME, wanted.first_name.as_ref()),
            (LAST_NAME, wanted.last_name.as_ref()),
        ];
        let mut errors: Vec<_> =
            fields.into_iter().filter_map(|(field, value)| self.field_error(field, value?)).collect();
        let too_long = |values: &Vec<String>| values.iter().any(|value| value.chars().count() > MAX_UNMANAGED_CHARS);
        let unmanaged =
            wanted.attributes.iter().filter(|(name, values)| self.described(name).is_none() && too_long(values));
        errors.extend(
            unmanaged.map(|(name, _)| error(name, "error-invalid-length", json!([name, 0, MAX_UNMANAGED_CHARS]))),
        );
        if errors.is_empty() { Ok(()) } else { Err(Refusal::fields(errors)) }
    }

    fn field_error(&self, field: &str, value: &str) -> Option<Value> {
        let validations = &self.described(field)?["validations"];
        let has = |name: &str| validations.get(name).is_some();
        let (min, max) = (validations["length"]["min"].as_u64(), validations["length"]["max"].as_u64());
        let length = value.chars().count() as u64;
        if min.is_some_and(|min| length < min) || max.is_some_and(|max| length > max) {
            return Some(error(field, "error-invalid-length", json!([field, min, max])));
        }
        if has("email") && !looks_like_email(value) {
            return Some(error(field, "error-invalid-email", json!([field, value])));
        }
        if has("username-prohibited-characters") && value.chars().any(is_odd_in_usernames) {
            return Some(error(field, "error-username-invalid-character", json!([field])));
        }
        if has("person-name-prohibited-characters") && value.chars().any(is_odd_in_names) {
            return Some(error(field, "error-person-name-invalid-character", json!([field])));
        }
        None
    }

    fn described(&self, name: &str) -> Option<&Value> {
        self.document["attributes"].as_array()?.iter().find(|attribute| attribute["name"] == name)
    }
}

fn error(field: &str, message: &str, params: Value) -> Value {
    json!({"field": field, "errorMessage": message, "params": params})
}

fn contains(list: &Value, word: &str) -> bool {
    list.as_array().is_some_and(|list| list.iter().any(|item| item == word))
}

fn looks_like_email(value: &str) -> bool {
    let Some((name, host)) = value.rsplit_once('@') else { return value.is_empty() };
    let is_odd = |c: char| c.is_whitespace() || c.is_control() || "<>(),;:\\\"@[]".contains(c);
    !name.is_empty() && !host.is_empty() && !value.starts_with('@') && !name.contains(is_odd) && !host.contains(is_odd)
}

fn is_odd_in_usernames(c: char) -> bool {
    c.is_whitespace() || c.is_control() || "<>&\"'/\\$#%^*()={}[]|:;,?!`~+".contains(c) && c != '+'
}

fn is_odd_in_names(c: char) -> bool {
    c.is_control() || "<>&\"$#%^*={}|:;?!/\\`~".contains(c)
}
