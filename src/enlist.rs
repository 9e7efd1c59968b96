//! What `enlist` takes, and what it lends: `&R` gives `&mut R::Branch`, a tuple gives a tuple, an
//! array an array, a slice a vector.

use async_trait::async_trait;
use unanimous_core::ports::Resource;
use unanimous_core::protocol::BranchRole;

use crate::error::EnlistError;
use crate::opening::OpenRequest;
use crate::transaction::{Slot, Transaction};

mod sealed {
    pub trait Sealed {}
}

/// One resource or several, to be enlisted together. Implemented for `&R`, tuples of two to six,
/// arrays and slices of references.
#[async_trait]
pub trait EnlistSet<'t>: sealed::Sealed + Send {
    /// The branches, as mutable borrows of the transaction.
    type Branches: Send;

    #[doc(hidden)]
    async fn enlist(
        self,
        transaction: &'t mut Transaction,
        role: BranchRole,
    ) -> Result<Self::Branches, EnlistError>;
}

/// The slots at distinct indices. `open_all` answers one index per request and refuses doubles.
fn disjoint<'s, const N: usize>(slots: &'s mut [Slot], indices: &[usize]) -> [&'s mut Slot; N] {
    let indices: [usize; N] = indices.try_into().expect("one index per resource");
    slots
        .get_disjoint_mut(indices)
        .expect("each resource has one slot, and none is named twice")
}

fn typed<R: Resource>(slot: &mut Slot) -> Result<&mut R::Branch, EnlistError> {
    let name = slot.name.clone();
    // Another resource of the same name but of another type is not the one that was registered.
    Transaction::branch_of::<R>(slot).ok_or(EnlistError::NotRegistered(name))
}

impl<R: Resource> sealed::Sealed for &R {}

#[async_trait]
impl<'t, R: Resource> EnlistSet<'t> for &R {
    type Branches = &'t mut R::Branch;

    async fn enlist(
        self,
        transaction: &'t mut Transaction,
        role: BranchRole,
    ) -> Result<Self::Branches, EnlistError> {
        let at = transaction
            .open_all(vec![OpenRequest::new(self)], role)
            .await?;
        let [slot] = disjoint(transaction.slots_mut(), &at);
        typed::<R>(slot)
    }
}

impl<R: Resource, const N: usize> sealed::Sealed for [&R; N] {}

#[async_trait]
impl<'t, R: Resource, const N: usize> EnlistSet<'t> for [&R; N] {
    type Branches = [&'t mut R::Branch; N];

    async fn enlist(
        self,
        transaction: &'t mut Transaction,
        role: BranchRole,
    ) -> Result<Self::Branches, EnlistError> {
        let requests = self
            .iter()
            .map(|resource| OpenRequest::new(*resource))
            .collect();
        let at = transaction.open_all(requests, role).await?;
        let slots: [&mut Slot; N] = disjoint(transaction.slots_mut(), &at);
        let branches: Vec<_> = slots
            .into_iter()
            .map(|slot| typed::<R>(slot))
            .collect::<Result<_, _>>()?;
        Ok(branches
            .try_into()
            .unwrap_or_else(|_| unreachable!("one branch per slot")))
    }
}

impl<R: Resource> sealed::Sealed for &[&R] {}

#[async_trait]
impl<'t, R: Resource> EnlistSet<'t> for &[&R] {
    type Branches = Vec<&'t mut R::Branch>;

    async fn enlist(
        self,
        transaction: &'t mut Transaction,
        role: BranchRole,
    ) -> Result<Self::Branches, EnlistError> {
        let requests = self
            .iter()
            .map(|resource| OpenRequest::new(*resource))
            .collect();
        let at = transaction.open_all(requests, role).await?;
        // By slot first, then in the order of the request: safe without indexing twice.
        let mut slots: Vec<Option<&mut Slot>> =
            transaction.slots_mut().iter_mut().map(Some).collect();
        let take = |index: usize| slots[index].take().expect("no resource is named twice");
        at.into_iter()
            .map(take)
            .map(|slot| typed::<R>(slot))
            .collect()
    }
}

macro_rules! enlist_tuple {
    ($($resource:ident $slot:ident $index:tt),+) => {
        impl<$($resource: Resource),+> sealed::Sealed for ($(&$resource,)+) {}

        #[async_trait]
        impl<'t, $($resource: Resource),+> EnlistSet<'t> for ($(&$resource,)+) {
            type Branches = ($(&'t mut $resource::Branch,)+);

            async fn enlist(
                self,
                transaction: &'t mut Transaction,
                role: BranchRole,
            ) -> Result<Self::Branches, EnlistError> {
                let requests = vec![$(OpenRequest::new(self.$index)),+];
                let at = transaction.open_all(requests, role).await?;
                let [$($slot),+] = disjoint(transaction.slots_mut(), &at);
                Ok(($(typed::<$resource>($slot)?,)+))
            }
        }
    };
}

enlist_tuple!(A a 0, B b 1);
enlist_tuple!(A a 0, B b 1, C c 2);
enlist_tuple!(A a 0, B b 1, C c 2, D d 3);
enlist_tuple!(A a 0, B b 1, C c 2, D d 3, E e 4);
enlist_tuple!(A a 0, B b 1, C c 2, D d 3, E e 4, F f 5);
