//! What the borrow checker and the types forbid. Each refusal has a twin that differs in nothing
//! else and compiles.

/// A branch cannot be used after the commit.
///
/// ```compile_fail,E0505
/// # async fn twin(tm: unanimous::TransactionManager, orders: unanimous_testing::MemoryResource)
/// #     -> Result<(), unanimous::BoxError> {
/// let mut tx = tm.begin();
/// let branch = tx.enlist(&orders).await?;
/// tx.commit().await?;
/// branch.put("k", "too late")?;
/// # Ok(()) }
/// ```
///
/// ```
/// # async fn twin(tm: unanimous::TransactionManager, orders: unanimous_testing::MemoryResource)
/// #     -> Result<(), unanimous::BoxError> {
/// let mut tx = tm.begin();
/// let branch = tx.enlist(&orders).await?;
/// branch.put("k", "in time")?;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
struct BranchAfterCommit;

/// A branch cannot be kept beyond its transaction.
///
/// ```compile_fail,E0597
/// # async fn twin(tm: unanimous::TransactionManager, orders: unanimous_testing::MemoryResource)
/// #     -> Result<(), unanimous::BoxError> {
/// let kept;
/// {
///     let mut tx = tm.begin();
///     kept = tx.enlist(&orders).await?;
/// }
/// kept.put("k", "of nobody")?;
/// # Ok(()) }
/// ```
///
/// ```
/// # async fn twin(tm: unanimous::TransactionManager, orders: unanimous_testing::MemoryResource)
/// #     -> Result<(), unanimous::BoxError> {
/// let kept;
/// let mut tx = tm.begin();
/// {
///     kept = tx.enlist(&orders).await?;
/// }
/// kept.put("k", "of tx")?;
/// # Ok(()) }
/// ```
struct BranchBeyondTransaction;

/// A transaction is committed once.
///
/// ```compile_fail,E0382
/// # async fn twin(tm: unanimous::TransactionManager) -> Result<(), unanimous::BoxError> {
/// let tx = tm.begin();
/// tx.commit().await?;
/// tx.rollback().await;
/// # Ok(()) }
/// ```
///
/// ```
/// # async fn twin(tm: unanimous::TransactionManager) -> Result<(), unanimous::BoxError> {
/// let tx = tm.begin();
/// tx.commit().await?;
/// let tx = tm.begin();
/// tx.rollback().await;
/// # Ok(()) }
/// ```
struct CommittedTwice;

/// Two branches are borrowed together by one enlist, not by two.
///
/// ```compile_fail,E0499
/// # use unanimous_testing::MemoryResource;
/// # async fn twin(tm: unanimous::TransactionManager, orders: MemoryResource, ledger:
/// MemoryResource)
/// #     -> Result<(), unanimous::BoxError> {
/// let mut tx = tm.begin();
/// let a = tx.enlist(&orders).await?;
/// let b = tx.enlist(&ledger).await?;
/// a.put("k", "1")?;
/// b.put("k", "1")?;
/// # Ok(()) }
/// ```
///
/// ```
/// # use unanimous_testing::MemoryResource;
/// # async fn twin(tm: unanimous::TransactionManager, orders: MemoryResource, ledger:
/// MemoryResource)
/// #     -> Result<(), unanimous::BoxError> {
/// let mut tx = tm.begin();
/// let (a, b) = tx.enlist((&orders, &ledger)).await?;
/// a.put("k", "1")?;
/// b.put("k", "1")?;
/// # Ok(()) }
/// ```
struct TwoEnlists;
