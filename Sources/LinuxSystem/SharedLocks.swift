internal import CSystemShims
internal import Glibc

/// A row of locks, each held by many for looking or by one for changing. Who waits to change goes before who comes
/// later to look. Holders release on the thread that acquired; nobody acquires what they hold already.
@safe public final class SharedLocks: @unchecked Sendable {
    // @unchecked: the locks are made for use by many threads; the pointer is constant.
    private let locks: UnsafeMutablePointer<pthread_rwlock_t>
    public let count: Int

    /// - Precondition: `count` is positive.
    public init(count: Int) {
        precondition(count > 0, "a row of locks has at least one")
        self.count = count
        unsafe locks = .allocate(capacity: count)
        var attributes = pthread_rwlockattr_t()
        _ = unsafe pthread_rwlockattr_init(&attributes)
        // PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP, an enumerator that Swift imports with another type.
        _ = unsafe pthread_rwlockattr_setkind_np(&attributes, 2)
        for index in 0..<count {
            unsafe (locks + index).initialize(to: pthread_rwlock_t())
            _ = unsafe pthread_rwlock_init(locks + index, &attributes)
        }
        _ = unsafe pthread_rwlockattr_destroy(&attributes)
    }

    deinit {
        for index in 0..<count { _ = unsafe pthread_rwlock_destroy(locks + index) }
        unsafe locks.deallocate()
    }

    public func acquire(_ index: Int, exclusive: Bool) {
        precondition(index >= 0 && index < count, "no such lock")
        guard shim_is_scheduled() == 0 else { return acquireInTurn(index, exclusive) }
        let result =
            exclusive
            ? unsafe pthread_rwlock_wrlock(locks + index) : unsafe pthread_rwlock_rdlock(locks + index)
        precondition(result == 0, "a lock is not acquired twice by one thread")
    }

    public func release(_ index: Int) {
        precondition(index >= 0 && index < count, "no such lock")
        _ = unsafe pthread_rwlock_unlock(locks + index)
        if shim_is_scheduled() != 0 { unsafe shim_schedule_unlocked(locks + index) }
    }

    /// Under a test's scheduler nobody waits in the lock itself.
    private func acquireInTurn(_ index: Int, _ exclusive: Bool) {
        let lock = unsafe locks + index
        while unsafe (exclusive ? pthread_rwlock_trywrlock(lock) : pthread_rwlock_tryrdlock(lock)) != 0 {
            unsafe shim_schedule_blocked(lock)
        }
    }
}
