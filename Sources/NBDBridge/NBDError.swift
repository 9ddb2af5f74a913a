/// Why an NBD export cannot be reached or read.
public struct NBDError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: Hashable, Sendable { case unreachable, timedOut, outOfBounds, failed }
    public var code: Code
    public var message: String
    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }
    public var description: String { message }
}
