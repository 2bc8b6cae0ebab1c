//! What is said on a connection to check a password.

use tidegate_core::ldap::{LdapOptions, LdapUser};

use super::connection::{Connection, LdapError, shown};
use super::dn;
use super::filter::{Filter, FilterError};
use super::message::{Entry, Outcome, Scope, Search, code};
use crate::OptionError;

/// Maximum number of groups of a user.
const MAX_GROUPS: u32 = 1000;
/// Maximum length of their names together, in bytes.
const MAX_GROUPS_SIZE: usize = 64 << 10;

/// Where users and groups are.
pub(super) struct Check {
    options: LdapOptions,
    /// Finds the user, in search mode.
    users: Option<Filter>,
    groups: Option<Filter>,
    everything: Filter,
    /// Attributes that the user's name is compared with.
    names: Vec<String>,
    /// Time limit of a search in seconds.
    time_limit: u32,
}

impl Check {
    /// Parses the filters.
    pub(super) fn new(options: &LdapOptions) -> Result<Self, OptionError> {
        let filter = |option, text: &str, placeholders: &[char]| {
            let parse = || Filter::parse(text, placeholders);
            let error = |error: FilterError| OptionError::new(option, error.to_string());
            (!text.is_empty()).then(parse).transpose().map_err(error)
        };
        let users = filter("searchFilter", &options.search_filter, &['s'])?;
        let groups = filter("groups.searchFilter", &options.groups.search_filter, &['s', 'u'])?;
        let mut names: Vec<String> =
            users.iter().flat_map(|users| users.attributes_of(0)).map(str::to_owned).collect();
        if names.is_empty() {
            names.push(options.attribute.clone());
        }
        let time_limit = u32::try_from(options.timeout.as_secs()).unwrap_or(u32::MAX).max(1);
        Ok(Self {
            options: options.clone(),
            users,
            groups,
            everything: Filter::everything(),
            names,
            time_limit,
        })
    }

    /// Returns the user if the password is right.
    pub(super) async fn run(
        &self,
        connection: &mut Connection,
        user: &str,
        password: &[u8],
    ) -> Result<Option<LdapUser>, LdapError> {
        let entry = match &self.users {
            Some(filter) => self.find(connection, filter, user).await?,
            None => {
                let dn = dn::below(&self.options.attribute, user, &self.options.base_dn);
                Some(Entry { dn, ..Entry::default() })
            }
        };
        let Some(mut entry) = entry else {
            // As many messages as for a user that exists, so that timing does not tell.
            let nobody = dn::below("cn", &format!("{:032x}", fastrand::u128(..)), &self.options.base_dn);
            connection.bind(&nobody, password, |_| ()).await?;
            return Ok(None);
        };
        if !connection.bind(&entry.dn, password, is_right).await?? {
            return Ok(None);
        }
        if self.users.is_none() {
            entry.attributes = self.own_attributes(connection, &entry.dn).await?;
        }
        let name = self.spelling(&entry, user);
        let groups = self.groups(connection, &entry, &name).await?;
        Ok(Some(LdapUser { name, dn: entry.dn, groups }))
    }

    /// Returns the one entry of a user.
    async fn find(
        &self,
        connection: &mut Connection,
        filter: &Filter,
        user: &str,
    ) -> Result<Option<Entry>, LdapError> {
        self.become_searcher(connection).await?;
        let values = [user.as_bytes()];
        let search = Search {
            base: &self.options.base_dn,
            scope: Scope::Subtree,
            filter,
            values: &values,
            attributes: &self.attributes(),
            size_limit: 2,
            time_limit: self.time_limit,
        };
        let (mut entries, is_complete) = connection.search(&search).await?;
        if entries.len() > 1 || !is_complete {
            tracing::debug!(
                count = entries.len(),
                "more than one entry in the directory has the user's name"
            );
            return Ok(None);
        }
        // A bind without a DN is anonymous.
        Ok(entries.pop().filter(|entry| !entry.dn.is_empty()))
    }

    /// Returns the attributes of the bound user's entry; none if the user may not read it.
    async fn own_attributes(
        &self,
        connection: &mut Connection,
        dn: &str,
    ) -> Result<Vec<(String, Vec<String>)>, LdapError> {
        let search = Search {
            base: dn,
            scope: Scope::Base,
            filter: &self.everything,
            values: &[],
            attributes: &self.attributes(),
            size_limit: 1,
            time_limit: self.time_limit,
        };
        match connection.search(&search).await {
            Ok((mut entries, _)) => Ok(entries.pop().unwrap_or_default().attributes),
            Err(LdapError::Refused { reason, .. }) => {
                tracing::debug!("users cannot read their own entries: {reason}");
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    async fn groups(
        &self,
        connection: &mut Connection,
        entry: &Entry,
        name: &str,
    ) -> Result<Vec<String>, LdapError> {
        let options = &self.options.groups;
        let mut groups: Vec<String> = entry.values(&options.attribute).map(str::to_owned).collect();
        if let Some(filter) = &self.groups {
            // In bind mode without bindDN, users search themselves.
            if self.users.is_some() || !self.options.bind_dn.is_empty() {
                self.become_searcher(connection).await?;
            }
            let values = [entry.dn.as_bytes(), name.as_bytes()];
            let search = Search {
                base: &options.base_dn,
                scope: Scope::Subtree,
                filter,
                values: &values,
                attributes: &[&options.name_attribute],
                size_limit: MAX_GROUPS,
                time_limit: self.time_limit,
            };
            let (found, is_complete) = connection.search(&search).await?;
            if !is_complete {
                return Err(LdapError::TooManyGroups);
            }
            groups.extend(
                found.iter().flat_map(|group| group.values(&options.name_attribute)).map(str::to_owned),
            );
        }
        groups.sort_unstable();
        groups.dedup();
        let size: usize = groups.iter().map(String::len).sum();
        if groups.len() > MAX_GROUPS as usize || size > MAX_GROUPS_SIZE {
            Err(LdapError::TooManyGroups)
        } else {
            Ok(groups)
        }
    }

    /// Binds as the DN that searches.
    async fn become_searcher(&self, connection: &mut Connection) -> Result<(), LdapError> {
        if connection.can_search {
            return Ok(());
        }
        let (dn, password) = (&self.options.bind_dn, self.options.bind_password.expose());
        let bound = connection.bind(dn, password.as_bytes(), |outcome| match outcome.code {
            code::SUCCESS => Ok(()),
            _ => Err(LdapError::OwnBind(shown(outcome))),
        });
        bound.await??;
        connection.can_search = true;
        Ok(())
    }

    fn attributes(&self) -> Vec<&str> {
        let groups = &self.options.groups.attribute;
        let groups = Some(groups.as_str()).filter(|name| !name.is_empty());
        self.names.iter().map(String::as_str).chain(groups).collect()
    }

    /// Returns the user's name as the directory spells it: it ignores case and spaces, which rules about names do not.
    fn spelling(&self, entry: &Entry, typed: &str) -> String {
        let words =
            |text: &str| text.to_lowercase().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let values: Vec<&str> = self.names.iter().flat_map(|name| entry.values(name)).collect();
        let typed_words = words(typed);
        let same = values.iter().find(|value| words(value) == typed_words);
        match (same, values.as_slice()) {
            (Some(same), _) => (*same).to_owned(),
            // The directory finds it equal in some other way.
            (None, [one]) => (*one).to_owned(),
            _ => typed.to_owned(),
        }
    }
}

/// Returns whether the password is right. Referrals are not followed: the password is for this server alone.
fn is_right(outcome: Outcome<'_>) -> Result<bool, LdapError> {
    match outcome.code {
        code::SUCCESS => Ok(true),
        code::INVALID_CREDENTIALS
        | code::NO_SUCH_OBJECT
        | code::INVALID_DN
        | code::INAPPROPRIATE_AUTHENTICATION
        | code::INSUFFICIENT_ACCESS
        | code::UNWILLING
        | code::CONSTRAINT_VIOLATION
        | code::REFERRAL => Ok(false),
        _ => Err(LdapError::refused("the bind of the user", outcome)),
    }
}
