//! Macros for what every domain would otherwise write by hand: structs with their derives, and rejections with their codes. The macros for
//! sets of commands and events are in [`crate::decider`].
//!
//! The generated code needs no dependency besides this crate.

/// Lets derived code find serde in a crate that does not depend on it. The macros import all of it where they are used.
#[doc(hidden)]
pub mod derived {
    pub use serde as __millstream_serde;
}

/// The import for derived code. It may occur twice in a module.
#[doc(hidden)]
#[macro_export]
macro_rules! __derived_imports {
    () => {
        #[allow(unused_imports, reason = "needed only where a struct is written")]
        use $crate::decider::derived::*;
    };
}

/// The type that a variant holds: the one that it names, or the struct with its own name.
#[doc(hidden)]
#[macro_export]
macro_rules! __body_type {
    ($name:ident ($body:ty)) => {
        $body
    };
    ($name:ident { $($fields:tt)* }) => {
        $name
    };
}

/// The struct of a variant that lists its fields; nothing for a variant that names a type.
#[doc(hidden)]
#[macro_export]
macro_rules! __body_struct {
    ($set:ident, [$visibility:vis], [$($meta:tt)*], $name:ident ($body:ty)) => {};
    ($set:ident, [$visibility:vis], [$($meta:tt)*], $name:ident {
        $($(#[$field_meta:meta])* $field:ident : $type:ty),* $(,)?
    }) => {
        $($meta)*
        #[derive(
            Debug, Clone, PartialEq,
            $crate::decider::derived::__millstream_serde::Serialize,
            $crate::decider::derived::__millstream_serde::Deserialize,
        )]
        #[serde(crate = "__millstream_serde", deny_unknown_fields)]
        $visibility struct $name { $($(#[$field_meta])* $visibility $field: $type),* }

        impl From<$name> for $set {
            fn from(fields: $name) -> Self {
                Self::$name(fields)
            }
        }
    };
}

/// Writes plain data, such as the rows of a view, the state of an aggregate or the parts of events: adds `Debug`, `Clone`,
/// `PartialEq`, `Serialize` and `Deserialize` to each struct or enum. Other derives and serde's attributes are written as usual.
///
/// ```
/// millstream_domain::data! {
///     /// A row of the view.
///     #[derive(Default)]
///     pub struct MemberRow {
///         /// What the member is called.
///         pub name: String,
///     }
///
///     /// What a member has booked.
///     #[serde(rename_all = "kebab-case")]
///     pub enum Plan { OffPeak, AllDay }
/// }
/// assert_eq!(serde_json::to_value(Plan::OffPeak).unwrap(), "off-peak");
/// assert_eq!(MemberRow::default(), MemberRow { name: String::new() });
/// ```
#[macro_export]
macro_rules! data {
    ($($item:item)*) => {
        $crate::__derived_imports!();

        $(
            #[derive(
                Debug, Clone, PartialEq,
                $crate::decider::derived::__millstream_serde::Serialize,
                $crate::decider::derived::__millstream_serde::Deserialize,
            )]
            #[serde(crate = "__millstream_serde")]
            $item
        )*
    };
}

/// Writes the rejections of an aggregate as an enum. Each variant has its code, the commands that can get it, and its sentence, which may
/// contain the variant's fields. `"*"` stands for every command ([`crate::decider::ANY_COMMAND`]).
///
/// After the enum, `also` names the codes of checks that are written elsewhere, such as those of `millstream::values`.
///
/// The enum turns into a [`crate::decider::Rejection`] by `?` and `into()`. Its function `declared` is what
/// [`crate::decider::Decider::rejections`] returns, so that a code cannot be forgotten there.
///
/// ```
/// use millstream_domain::decider::Rejection;
///
/// millstream_domain::rejections! {
///     /// Why a member's command is refused.
///     pub enum MemberRejection {
///         /// Nobody has this id.
///         NotJoined { id: String } = "not-joined" on ["freeze", "visit"]: "there is no member {id}; join first",
///         /// The fee is unpaid.
///         Suspended = "suspended" on ["visit"]: "the membership is suspended; pay the fee",
///     }
///     also { ["name-blank", "name-too-long"] on ["join"] }
/// }
///
/// let rejection: Rejection = MemberRejection::NotJoined { id: "anna".to_owned() }.into();
/// assert_eq!((rejection.code, &*rejection.message), ("not-joined", "there is no member anna; join first"));
/// assert_eq!(
///     MemberRejection::declared(),
///     [
///         ("freeze", "not-joined"), ("visit", "not-joined"), ("visit", "suspended"),
///         ("join", "name-blank"), ("join", "name-too-long"),
///     ]
/// );
/// ```
#[macro_export]
macro_rules! rejections {
    ($(#[$meta:meta])* $visibility:vis enum $name:ident {
        $($(#[$variant_meta:meta])* $variant:ident $({ $($field:ident : $type:ty),* $(,)? })?
            = $code:literal on [$($command:literal),+ $(,)?]: $message:literal),* $(,)?
    } $(also { $([$($other:literal),+ $(,)?] on $on:tt),+ $(,)? })?) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        $visibility enum $name {
            $($(#[$variant_meta])* #[doc = concat!("\n\nCode `", $code, "`.")] $variant $({
                $(
                    #[doc = concat!("`", stringify!($field), "` of the sentence.")]
                    $field: $type
                ),*
            })?),*
        }

        impl $name {
            /// Every command with every code that it can get.
            $visibility fn declared() -> Vec<(&'static str, &'static str)> {
                #[allow(unused_mut, reason = "most have no codes of checks")]
                let mut declared = vec![$($(($command, $code)),+),*];
                $($($(declared.extend($on.map(|command| (command, $other)));)+)+)?
                declared
            }

            /// The code, for programs.
            $visibility fn code(&self) -> &'static str {
                match self { $(Self::$variant { .. } => $code),* }
            }
        }

        impl From<$name> for $crate::decider::Rejection {
            fn from(rejection: $name) -> Self {
                #[allow(unused_variables, reason = "a sentence need not name every field")]
                match rejection {
                    $($name::$variant $({ $($field),* })? => Self::new($code, format!($message))),*
                }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use millstream_contract::command::BodyFormat;

    use crate::decider::{CommandSet as _, EventSet as _, decode_body};

    crate::commands! {
        /// What can be asked of a member.
        enum MemberCommand {
            /// Begins a membership.
            Join {
                /// What the member is called.
                name: String,
                /// Who brought the member.
                #[serde(default)]
                friend: Option<String>,
            } = "join",
            /// Stops it for a while.
            Freeze {} = "freeze",
            /// The form with a struct of one's own.
            Rename(RenameMember) = "rename",
        }
    }

    crate::data! {
        /// Another name.
        struct RenameMember {
            /// The name.
            name: String,
        }
    }

    crate::events! {
        /// What can happen to a member.
        enum MemberEvent of "member" {
            /// A membership began.
            Joined { name: String, plan: String } = "member-joined" v 2 upcasts { 1 => without_plan },
            /// It stopped for a while.
            Frozen {} = "member-frozen" v 1,
        }
    }

    fn without_plan(data: &[u8]) -> Result<Joined, rmp_serde::decode::Error> {
        crate::data! { struct Old { name: String } }
        let Old { name } = crate::decider::decode_event(data)?;
        Ok(Joined { name, plan: "all-day".to_owned() })
    }

    fn read(command: &str, body: &str) -> Result<MemberCommand, String> {
        MemberCommand::decode(command, BodyFormat::Json, body.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn fields_in_the_list_become_a_struct_of_the_variants_name() {
        assert_eq!(MemberCommand::NAMES, ["join", "freeze", "rename"]);
        let MemberCommand::Join(join) = read("join", r#"{"name":"Anna"}"#).unwrap() else { panic!() };
        assert_eq!(join, Join { name: "Anna".to_owned(), friend: None });
        let MemberCommand::Freeze(freeze) = read("freeze", "").unwrap() else { panic!() };
        assert_eq!(freeze, Freeze {});
        let MemberCommand::Rename(rename) = read("rename", r#"{"name":"Bea"}"#).unwrap() else { panic!() };
        assert_eq!(rename.name, "Bea");
        assert!(matches!(MemberCommand::from(Freeze {}), MemberCommand::Freeze(_)));
    }

    #[test]
    fn unknown_fields_of_such_a_command_are_refused_by_name() {
        let refused = read("freeze", r#"{"until":"2012-01-31"}"#).unwrap_err();
        assert!(refused.contains("until"), "{refused}");
    }

    #[test]
    fn fields_without_their_names_and_bytes_behind_a_command_are_refused_in_both_formats() {
        let refused = read("join", r#"["Anna",null]"#).unwrap_err();
        assert!(refused.contains("not a list"), "{refused}");
        let join = Join { name: "Anna".to_owned(), friend: None };
        let packed = |body: &[u8]| MemberCommand::decode("join", BodyFormat::MessagePack, body);
        let mut named = rmp_serde::to_vec_named(&join).unwrap();
        assert!(packed(&named).is_ok());
        named.push(0xc0);
        let refused = packed(&named).unwrap_err().to_string();
        assert!(refused.contains("1 bytes follow"), "{refused}");
        assert!(packed(&rmp_serde::to_vec(&join).unwrap()).is_err());
    }

    #[test]
    fn a_body_that_is_nested_too_deep_is_refused_in_both_formats() {
        for depth in [300, 100_000] {
            let json = ["[".repeat(depth), "]".repeat(depth)].concat();
            let mut packed = vec![0x91; depth];
            packed.push(0xc0);
            for (format, body) in [(BodyFormat::Json, json.into_bytes()), (BodyFormat::MessagePack, packed)] {
                let refused =
                    decode_body::<serde_json::Value>("note", format, &body).unwrap_err().to_string();
                assert!(refused.contains("nested too deep"), "{refused}");
            }
        }
    }

    #[test]
    fn events_of_such_fields_are_written_read_and_upcast() {
        let joined = MemberEvent::from(Joined { name: "Anna".into(), plan: "off-peak".into() });
        assert_eq!(joined.event_type(), ("member-joined", 2));
        assert_eq!(MemberEvent::decode("member-joined", 2, &joined.encode()).unwrap(), joined);
        let old = rmp_serde::to_vec_named(&serde_json::json!({ "name": "Anna" })).unwrap();
        let upcast = MemberEvent::decode("member-joined", 1, &old).unwrap();
        assert_eq!(upcast, Joined { name: "Anna".into(), plan: "all-day".into() }.into());
        let frozen = MemberEvent::Frozen(Frozen {});
        assert_eq!(MemberEvent::decode("member-frozen", 1, &frozen.encode()).unwrap(), frozen);
    }
}
