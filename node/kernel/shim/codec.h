// Writing answers and notifications; read back by `src/codec.rs`.
#ifndef KEYLESS_CODEC_H
#define KEYLESS_CODEC_H

#include "keyless_shim.h"

#include <primitives/block.h>
#include <primitives/transaction.h>
#include <streams.h>
#include <uint256.h>
#include <univalue.h>

#include <bit>
#include <concepts>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace keyless {

inline constexpr uint8_t STATUS_OK{0};
inline constexpr uint8_t STATUS_FAILED{1};
inline constexpr uint8_t STATUS_NOT_RUNNING{2};
inline constexpr uint8_t STATUS_RPC_ERROR{3};

/** A refusal whose text goes to the caller. */
struct Refused : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/** There is no node to ask. */
struct NotRunning : std::exception {
};

/** Appends fields, in little-endian order. */
class Writer
{
    std::vector<uint8_t> m_bytes;

public:
    void raw(std::span<const uint8_t> bytes) { m_bytes.insert(m_bytes.end(), bytes.begin(), bytes.end()); }
    void u8(uint8_t value) { m_bytes.push_back(value); }
    void boolean(bool value) { u8(value ? 1 : 0); }

    template <std::integral Int>
    void number(Int value)
    {
        static_assert(std::endian::native == std::endian::little);
        uint8_t bytes[sizeof(value)];
        std::memcpy(bytes, &value, sizeof(value));
        raw(bytes);
    }
    void u32(uint32_t value) { number(value); }
    void u64(uint64_t value) { number(value); }
    void i64(int64_t value) { number(value); }

    void bytes(std::span<const uint8_t> value)
    {
        u32(static_cast<uint32_t>(value.size()));
        raw(value);
    }
    void bytes(std::span<const std::byte> value) { bytes(std::span{reinterpret_cast<const uint8_t*>(value.data()), value.size()}); }
    void text(std::string_view value) { bytes(std::span{reinterpret_cast<const uint8_t*>(value.data()), value.size()}); }
    void hash(const uint256& value) { raw(std::span{value.begin(), value.size()}); }
    void hash(const Txid& value) { hash(value.ToUint256()); }
    void hash(const Wtxid& value) { hash(value.ToUint256()); }

    /** A length-prefixed value in consensus encoding. */
    template <typename T>
    void consensus(const T& value)
    {
        DataStream stream;
        stream << value;
        bytes(std::span<const std::byte>{stream});
    }

    std::span<const uint8_t> view() const { return m_bytes; }

    kl_buf release() const
    {
        auto* data{static_cast<uint8_t*>(std::malloc(m_bytes.size()))};
        if (!data) std::terminate(); // as Core does when memory runs out
        std::memcpy(data, m_bytes.data(), m_bytes.size());
        return {data, m_bytes.size()};
    }
};

/** Core throws JSON-RPC errors as UniValue objects: code, then text. */
inline kl_buf RpcFailure(const UniValue& error)
{
    const UniValue& code{error.find_value("code")};
    const UniValue& message{error.find_value("message")};
    Writer out;
    out.u8(STATUS_RPC_ERROR);
    out.i64(code.isNum() ? code.getInt<int>() : -1);
    out.text(message.isStr() ? message.get_str() : error.write());
    return out.release();
}

inline kl_buf Failure(uint8_t status, std::string_view text)
{
    Writer out;
    out.u8(status);
    out.raw(std::span{reinterpret_cast<const uint8_t*>(text.data()), text.size()});
    return out.release();
}

/** Runs `fill` on an answer that says success; any exception becomes an answer that says failure. */
template <typename Fill>
kl_buf Answer(Fill&& fill) noexcept
{
    try {
        Writer out;
        out.u8(STATUS_OK);
        fill(out);
        return out.release();
    } catch (const NotRunning&) {
        return Failure(STATUS_NOT_RUNNING, "");
    } catch (const std::exception& e) {
        return Failure(STATUS_FAILED, e.what());
    } catch (const UniValue& e) {
        return RpcFailure(e);
    } catch (...) {
        return Failure(STATUS_FAILED, "unknown exception");
    }
}

inline std::span<const uint8_t> View(kl_in in) { return in.len ? std::span{in.data, in.len} : std::span<const uint8_t>{}; }

inline std::string Text(kl_in in)
{
    return in.len ? std::string{reinterpret_cast<const char*>(in.data), in.len} : std::string{};
}

inline uint256 Hash(kl_in in)
{
    if (in.len != uint256::size()) throw Refused{"a hash has 32 bytes"};
    return uint256{View(in)};
}

/** Decodes the whole of `in` into `value` (a formatter such as TX_WITH_WITNESS). */
template <typename T>
void Decode(kl_in in, T&& value, const char* what)
{
    SpanReader reader{View(in)};
    try {
        reader >> value;
    } catch (const std::exception& e) {
        throw Refused{std::string{what} + " decode failed: " + e.what()};
    }
    if (!reader.empty()) throw Refused{std::string{what} + " decode failed"};
}

} // namespace keyless

#endif // KEYLESS_CODEC_H
