internal import CSystemShims

/// A file descriptor with exactly one owner. Dropping it closes it.
public struct OwnedDescriptor: ~Copyable, Sendable {
    /// The number, lent: neither close it nor keep it beyond the owner's life.
    public let number: CInt

    /// Takes over `descriptor`, which must be open and owned by nobody else.
    public init(adopting descriptor: CInt) { number = descriptor }

    deinit { _ = shim_close(number) }

    /// Gives the descriptor away: the caller closes it.
    public consuming func release() -> CInt {
        let number = self.number
        discard self
        return number
    }
}
